#!/usr/bin/env bash
# Writes the key by which the members of the replica set trust each other, then goes on as the image does.
set -eu
umask 077
printf '%s\n' "$MONGO_REPLICA_KEY" > /run/lockstep.key
chown mongodb:mongodb /run/lockstep.key
chmod 400 /run/lockstep.key
unset MONGO_REPLICA_KEY
exec docker-entrypoint.sh "$@"

#!/usr/bin/env bash
# Makes the replica set and the services' account. Safe to repeat; waits for a server that is still starting.
set -eu
for _ in $(seq 60); do
    if mongosh --quiet --host mongo --username root --password "$MONGO_ROOT_PASSWORD" \
        --authenticationDatabase admin --file /lockstep/init.js; then
        exit 0
    fi
    sleep 2
done
echo "MongoDB did not answer, or refused the root password of .env" >&2
exit 1

#!/bin/sh
# Writes the one identity from the environment, then becomes the server: S3 without identities is open to all.
set -eu
umask 077
cat > /run/s3.json <<JSON
{"identities": [{"name": "lockstep",
  "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
export WEED_JWT_SIGNING_KEY="$S3_INTERNAL_KEY" WEED_JWT_SIGNING_READ_KEY="$S3_INTERNAL_KEY"
export WEED_JWT_FILER_SIGNING_KEY="$S3_INTERNAL_KEY" WEED_JWT_FILER_SIGNING_READ_KEY="$S3_INTERNAL_KEY"
unset S3_ACCESS_KEY S3_SECRET_KEY S3_INTERNAL_KEY
exec weed -logtostderr=true server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.telemetry=false -master.peers=none -master.electionTimeout=1s \
    -master.volumeSizeLimitMB=1024 -master.vacuumIntervalSeconds=300 \
    -volume.max=0 -volume.preStopSeconds=1 -filer -filer.disableHttp \
    -s3 -s3.ip.bind=0.0.0.0 -s3.port=8333 -s3.port.iceberg=0 -s3.port.lance=0 -s3.config=/run/s3.json \
    -s3.allowDeleteBucketNotEmpty=false -s3.autoCreateBucket=false

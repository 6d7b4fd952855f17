#!/bin/sh
# Puts the lifecycle policy and the index template into Elasticsearch, before the first line comes. Again does no harm; what
# changed holds for the next index. The data stream itself, logs-tocsin-default, is made by its first line.
#
#   setup.sh [URL]    (http://127.0.0.1:9200)
#
# CURL_OPTIONS: for a cluster of your own, such as `--cacert ca.pem --netrc-file netrc`.
set -eu

url=${1:-http://127.0.0.1:9200}
here=$(cd "$(dirname "$0")" && pwd)

# shellcheck disable=SC2086 # words
ask() { curl --silent --show-error --fail-with-body --max-time 60 ${CURL_OPTIONS:-} "$@" && echo; }

for _ in $(seq 60); do
  if ask "$url/_cluster/health?wait_for_status=yellow&timeout=1s" >/dev/null 2>&1; then break; fi
  sleep 1
done
ask -X PUT -H 'Content-Type: application/json' --data-binary "@$here/ilm-policy.json" "$url/_ilm/policy/tocsin-logs"
ask -X PUT -H 'Content-Type: application/json' --data-binary "@$here/index-template.json" "$url/_index_template/tocsin-logs"

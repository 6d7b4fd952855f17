#!/bin/sh
# `make down`: stops what `make up` started, and waits until it is gone. Data stays.
set -eu
cd "$(dirname "$0")/.."

if [ -f .native.pid ]; then
  pid=$(cat .native.pid)
  kill -TERM "$pid" 2>/dev/null || true
  # Longer than the longest stop of its programs (supervisord.conf).
  for _ in $(seq 180); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.5
  done
  if kill -0 "$pid" 2>/dev/null; then
    echo "Process $pid does not end; see var/log/supervisord.log." >&2
    exit 1
  fi
  rm -f .native.pid
fi
if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
  docker compose down --remove-orphans
fi
echo "Tocsin is down." >&2

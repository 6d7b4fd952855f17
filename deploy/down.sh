#!/bin/sh
# `make down`: stops what `make up` started, and waits until it is gone. Data stays.
set -eu
cd "$(dirname "$0")/.."

if [ -f .native.pid ]; then
  pid=$(cat .native.pid)
  # After a reboot the number may be somebody else's.
  if grep -q supervise.py "/proc/$pid/cmdline" 2>/dev/null; then kill -TERM "$pid"; else pid=0; fi
  # Longer than the longest stops of its programs, one after the other (supervisord.conf).
  for _ in $(seq 300); do
    [ "$pid" != 0 ] || break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.5
  done
  if [ "$pid" != 0 ] && kill -0 "$pid" 2>/dev/null; then
    echo "Process $pid does not end; see .native.log/supervisord.log." >&2
    exit 1
  fi
  rm -f .native.pid .native.log
fi
if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
  # The app first: it drains, and nginx relays its 503 to whatever balances the load. nginx alone would just hang up.
  docker compose stop app
  docker compose down --remove-orphans
fi
echo "Tocsin is down." >&2

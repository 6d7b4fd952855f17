#!/bin/sh
# `make logs`: follows the log of every process; Ctrl-C ends the following, not the stack.
set -eu
cd "$(dirname "$0")/.."

if [ -f .native.pid ]; then exec tail -n 50 -F .native.log/*.log; fi
exec docker compose logs --follow --tail 50

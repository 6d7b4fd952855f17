#!/bin/sh
# `make up`: the stack by Compose where an engine answers, else from .venv and Debian's nginx. Returns when it is
# healthy, and says where it is.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# One setting: from the environment, else from .env, else the default.
setting() {
  eval "value=\${$1:-}"
  if [ -z "$value" ] && [ -f .env ]; then value=$(sed -n "s/^$1=//p" .env | tail -n 1 | tr -d "\"'"); fi
  printf '%s' "${value:-$2}"
}
address="http://$(setting TOCSIN_BIND 127.0.0.1):$(setting TOCSIN_HTTP_PORT 8080)"

by_compose() {
  say "A Docker engine answers: building and starting with Compose."
  # nginx reads these as a user of its own; a checkout made under umask 077 would keep it out.
  chmod -R a+rX deploy/nginx service/web/static
  docker compose build
  # What is wrong is said before what runs is touched.
  docker compose run --rm --no-deps -T --quiet-pull app tocsin check-config >/dev/null
  if docker compose up --detach --wait --quiet-pull; then return; fi
  for name in app nginx; do
    say "The end of what $name says (docker compose logs $name):"
    docker compose logs --no-log-prefix --tail 30 "$name" 2>&1 | grep -v '"log.level":"info"' | tail -n 5 >&2 || true
  done
  exit 1
}

need_nginx() {
  if PATH=$PATH:/usr/sbin command -v nginx >/dev/null; then return; fi
  install="apt-get install -y --no-install-recommends nginx-light"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "nginx is missing. As root: $install"
    exit 1
  fi
  say "Installing Debian's nginx."
  # Its own service would take port 80 at once; policy-rc.d is how Debian is told not to start one.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get -qq update
  # shellcheck disable=SC2086 # words
  DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
  rm -f /usr/sbin/policy-rc.d
  if command -v systemctl >/dev/null; then systemctl --quiet disable nginx || true; fi
}

natively() {
  if [ -f .native.pid ] && grep -q supervise.py "/proc/$(cat .native.pid)/cmdline" 2>/dev/null; then
    say "Already running (process $(cat .native.pid)); what has changed in .env counts after make down."
    return
  fi
  say "No Docker engine answers: starting from .venv, with supervisord and nginx."
  need_nginx
  make --no-print-directory --silent .venv/installed
  data=$(setting TOCSIN_DATA var)
  runtime=$(setting TOCSIN_RUNTIME "$data")
  mkdir -p "$data/log" || { say "The data folder $data cannot be written; set TOCSIN_DATA to one that can."; exit 1; }
  log=$data/log/supervisord.log
  start=$(wc -c 2>/dev/null <"$log" || echo 0)
  set -- .venv/bin/python deploy/supervisor/supervise.py --native
  # .env is read as Compose reads it: what the shell has set wins.
  if [ -f .env ]; then set -- .venv/bin/dotenv --file .env run --no-override -- "$@"; fi
  rm -f "$runtime/supervisor.sock"
  # What is wrong before it has opened its own log, which is the same file, and which it rotates.
  PATH=$PATH:/usr/sbin setsid "$@" </dev/null >>"$log" 2>&1 &
  pid=$!
  echo "$pid" >.native.pid
  ln -sfn "$data/log" .native.log
  for _ in $(seq 60); do
    if ! kill -0 "$pid" 2>/dev/null; then break; fi
    # The socket: it is our own stack that answers, and not another one on the same port.
    # And the monitor runs: a stack that watches nothing is not up. Then nginx has to forget that there was no app: for a
    # second it says so without asking.
    if [ -S "$runtime/supervisor.sock" ] && .venv/bin/python -I -S deploy/healthcheck.py "$address/readyz" >/dev/null 2>&1 \
      && .venv/bin/supervisorctl -s "unix://$(cd "$runtime" && pwd)/supervisor.sock" status monitor 2>&1 | grep -q RUNNING \
      && ! .venv/bin/python -I -S deploy/healthcheck.py "$address/api/health" 2>&1 | grep -q '^50[24]'; then
      return
    fi
    sleep 0.5
  done
  say "The stack did not become healthy. The end of $log:"
  if [ "$(wc -c <"$log")" -lt "$start" ]; then start=0; fi # it has been rotated
  tail -c "+$((start + 1))" "$log" | tail -n 15 >&2
  for name in web monitor; do
    say "and of $data/log/$name.log:"
    # Those that say why, among gunicorn's own about its end.
    tail -n 30 "$data/log/$name.log" 2>/dev/null | grep -v '"log.level":"info"' | tail -n 5 >&2 || true
  done
  sh deploy/down.sh
  exit 1
}

if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then by_compose; else natively; fi
say "Tocsin is up: $address/api/health"

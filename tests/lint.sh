#!/bin/sh
# What `make lint` asks the programs themselves: whether they take the files that this repository has for them.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH:/usr/sbin
# On CI nothing is left out: `make test`, which comes next, needs these programs as well.
if [ -n "${CI:-}" ]; then sh tests/packages.sh; fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

answers() { # WHAT-IS-LEFT-OUT COMMAND...
  without=$1
  shift
  if "$@" >/dev/null 2>&1; then return; fi
  echo "$without: left out, as it is not here." >&2
  if [ -n "${CI:-}" ]; then exit 1; fi
  return 1
}

echo "gunicorn --check-config"
env -i PATH="$PATH" TOCSIN_DATA="$scratch/data" gunicorn --check-config --config deploy/gunicorn.conf.py

if answers "nginx -t, gixy" sh -c "nginx -v && openssl version"; then
  echo "nginx -t, gixy" # on what start.sh makes of deploy/nginx, with every file of it in use
  rendered=$scratch/nginx
  openssl ecparam -name prime256v1 -genkey -noout -out "$scratch/key.pem"
  openssl req -x509 -new -key "$scratch/key.pem" -subj /CN=lint -out "$scratch/cert.pem"
  env -i PATH="$PATH" NGINX_PREFIX="$rendered" NGINX_LISTEN=127.0.0.1:8080 NGINX_UPSTREAM=127.0.0.1:8000 \
    NGINX_STATIC="$PWD/service/web/static" NGINX_APPS=/shop/=127.0.0.1:8001 NGINX_TRUSTED_PROXIES=192.0.2.0/24 \
    NGINX_TLS_LISTEN=127.0.0.1:8443 NGINX_TLS_CERT="$scratch/cert.pem" NGINX_TLS_KEY="$scratch/key.pem" \
    sh deploy/nginx/start.sh -t
  # No HSTS: it would bind every other port of the host as well (docs/tls.md).
  gixy --skips hsts_header "$rendered/nginx.conf"
fi

if answers "docker compose config" docker compose version; then
  echo "docker compose config"
  shop=examples/shop
  for files in compose.yaml "compose.yaml deploy/docker-socket.yaml" \
    "compose.yaml $shop/compose.own.yaml" "compose.yaml $shop/compose.blueprint.yaml"; do
    # shellcheck disable=SC2046,SC2086 # words
    DOCKER_GROUP=1 docker compose $(printf -- '--file %s ' $files) --profile elk config --quiet
  done
fi

#!/bin/sh
# Starts nginx for tocsin-nginx.service: TOCSIN_* as the other units read them, and a way into the journal.
set -eu

prefix=$RUNTIME_DIRECTORY # systemd makes it
home=$(cd "$(dirname "$0")/../.." && pwd)

# nginx opens /dev/stdout anew, by its name. What systemd gives is a socket, which cannot be opened so; a pipe can. The reader
# ends when nginx, and all it left, have closed their end.
rm -f "$prefix/access.pipe"
mkfifo -m 600 "$prefix/access.pipe"
cat <"$prefix/access.pipe" &

# Nothing else of the environment: the secrets of the settings are none of nginx' business.
exec env -i PATH="$PATH" \
  NGINX_PREFIX="$prefix" NGINX_STATIC="$home/service/web/static" \
  NGINX_LISTEN="${TOCSIN_BIND:-127.0.0.1}:${TOCSIN_HTTP_PORT:-8080}" \
  NGINX_UPSTREAM="${TOCSIN_WEB_ADDRESS:-127.0.0.1:8000}" NGINX_APPS="${TOCSIN_APPS:-}" \
  NGINX_TRUSTED_PROXIES="${TOCSIN_TRUSTED_PROXIES:-}" \
  NGINX_TLS_CERT="${TOCSIN_TLS_CERT:-}" NGINX_TLS_KEY="${TOCSIN_TLS_KEY:-}" NGINX_HTTPS_PORT="${TOCSIN_HTTPS_PORT:-8443}" \
  NGINX_TLS_LISTEN="${TOCSIN_BIND:-127.0.0.1}:${TOCSIN_HTTPS_PORT:-8443}" \
  sh "$home/deploy/nginx/start.sh" >"$prefix/access.pipe"

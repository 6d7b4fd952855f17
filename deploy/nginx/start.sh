#!/bin/sh
# Starts nginx with this folder's configuration, in a container or on a machine without Docker.
#
#   NGINX_PREFIX    a folder it may write                     (/tmp/nginx)
#   NGINX_LISTEN    where it listens                          (0.0.0.0:8080)
#   NGINX_UPSTREAM  the app, HOST:PORT; a name is followed    (app:8000)
#   NGINX_STATIC    the folder of static files                (/srv/static)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=${NGINX_PREFIX:-/tmp/nginx}
listen=${NGINX_LISTEN:-0.0.0.0:8080}
upstream=${NGINX_UPSTREAM:-app:8000}
static=${NGINX_STATIC:-/srv/static}
host=${upstream%:*}
port=${upstream##*:}
export TZ=UTC # nginx writes local time; Elasticsearch wants to be told, or UTC
umask 077

mkdir -p "$prefix/temp"
for file in "$here"/*.conf; do
  sed "s|@HERE@|$here|g; s|@LISTEN@|$listen|g; s|@STATIC@|$static|g" "$file" >"$prefix/${file##*/}"
done

# The addresses behind the name, each more often than idle connections are kept to it (nginx.conf, `keepalive 16`). Each try
# takes one of them off the list, also a try on a connection whose worker has died: with a shorter list nginx gives up where
# it could ask another worker. max_fails=0: one worker that dies must not count as the whole server being gone.
servers() {
  case $host in
    \[*) echo "$host" ;;
    *[!0-9.]*) getent ahostsv4 "$host" | awk '{ print $1 }' | sort -u ;;
    *) echo "$host" ;;
  esac | awk -v port="$port" '
    { for (i = 0; i < 18; i++) printf "server %s:%s max_fails=0;\n", $1, port }'
}
# While there is none: an address that refuses, so that nginx runs, answers 502, and finds the app when it comes.
nobody="server 127.0.0.1:1;"

# nginx looks a name up once, when it starts, and `server ... resolve` needs nginx 1.27.3. A container that was
# recreated has another address: look every two seconds, and reload when it changed. A reload loses no request.
# A look that finds nothing counts only the second time: a name server may stutter. $$ is nginx, later on.
follow() {
  empty=0
  while sleep 2 && kill -0 $$ 2>/dev/null; do
    servers >"$prefix/upstream.new"
    if [ -s "$prefix/upstream.new" ]; then
      empty=0
    else
      empty=$((empty + 1))
      if [ "$empty" -lt 2 ]; then continue; fi
      echo "$nobody" >"$prefix/upstream.new"
    fi
    if ! cmp -s "$prefix/upstream.new" "$prefix/upstream.conf"; then
      mv "$prefix/upstream.new" "$prefix/upstream.conf"
      kill -HUP "$(cat "$prefix/nginx.pid")"
    fi
  done
}

# nginx' error log has no format. Bytes that are not printable ASCII become `?`, a line is cut at 1500 characters,
# then what JSON needs is escaped.
as_json() {
  LC_ALL=C exec sed -u -E '
    s/[^ -~]/?/g
    s/^(.{1500}).*/\1 ... (cut)/
    s/[\\"]/\\&/g
    s|^([0-9]{4})/([0-9]{2})/([0-9]{2}) ([0-9:]{8}) \[([a-z]+)\] ([0-9]+)#[0-9]+: (.*)$|{"@timestamp":"\1-\2-\3T\4.000Z","log.level":"\5","message":"\7","ecs.version":"8.11.0","service.name":"tocsin-nginx","process.pid":\6,"event.dataset":"nginx.error"}|
    t
    s|^(.*)$|{"log.level":"error","message":"\1","ecs.version":"8.11.0","service.name":"tocsin-nginx","event.dataset":"nginx.error"}|'
}

servers >"$prefix/upstream.conf"
if [ ! -s "$prefix/upstream.conf" ]; then echo "$nobody" >"$prefix/upstream.conf"; fi
rm -f "$prefix/error.pipe"
mkfifo "$prefix/error.pipe"
as_json <"$prefix/error.pipe" &
case $host in \[*) ;; *[!0-9.]*) follow & ;; esac
directives='daemon off;'
# Started by root, nginx' workers would become `nobody`, who cannot read a checkout in root's home. Better: do not
# run this as root; the container does not.
if [ "$(id -u)" = 0 ]; then directives="$directives user root;"; fi
# From here on this process is nginx, so that a signal to it is a signal to nginx. It keeps the pipe open as its
# standard error; when it ends, the reader does.
exec nginx -p "$prefix/" -c "$prefix/nginx.conf" -g "$directives" 2>"$prefix/error.pipe"

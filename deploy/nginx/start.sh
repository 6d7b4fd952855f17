#!/bin/sh
# Starts nginx with this folder's configuration, in a container or on a machine without Docker.
#
#   NGINX_PREFIX    a folder it may write                     (/tmp/nginx)
#   NGINX_LISTEN    where it listens                          (0.0.0.0:8080)
#   NGINX_UPSTREAM  the app, HOST:PORT; a name is followed    (app:8000)
#   NGINX_STATIC    the folder of static files                (/srv/static)
#   NGINX_APPS      applications of your own, /PREFIX/=HOST:PORT[,...]; names are followed here, too   (none)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=${NGINX_PREFIX:-/tmp/nginx}
listen=${NGINX_LISTEN:-0.0.0.0:8080}
upstream=${NGINX_UPSTREAM:-app:8000}
static=${NGINX_STATIC:-/srv/static}
export TZ=UTC # nginx writes local time; Elasticsearch wants to be told, or UTC
umask 077

mkdir -p "$prefix/temp"
for file in "$here"/*.conf; do
  sed "s|@HERE@|$here|g; s|@LISTEN@|$listen|g; s|@STATIC@|$static|g" "$file" >"$prefix/${file##*/}"
done

# nginx' error log has no format. Bytes that are not printable ASCII become `?`, a line is cut at 1500 characters,
# then what JSON needs is escaped. What has no time is said while nginx starts, before it has a log.
as_json() {
  started=$(date +%Y-%m-%dT%H:%M:%S.000Z)
  LC_ALL=C exec sed -u -E '
    s/[^ -~]/?/g
    s/^(.{1500}).*/\1 ... (cut)/
    s/[\\"]/\\&/g
    s|^([0-9]{4})/([0-9]{2})/([0-9]{2}) ([0-9:]{8}) \[([a-z]+)\] ([0-9]+)#[0-9]+: (.*)$|{"@timestamp":"\1-\2-\3T\4.000Z","log.level":"\5","message":"\7","ecs.version":"8.11.0","service.name":"tocsin-nginx","process.pid":\6,"event.dataset":"nginx.error"}|
    t
    s|^(.*)$|{"@timestamp":"'"$started"'","log.level":"error","message":"\1","ecs.version":"8.11.0","service.name":"tocsin-nginx","event.dataset":"nginx.error"}|'
}

# Each application has an upstream, and a location for what begins with its prefix, which it gets as it came. Settings have
# checked all of it (service/settings.py); here only that nothing else becomes part of the configuration.
upstreams="web=$upstream"
: >"$prefix/upstreams.conf"
: >"$prefix/locations.conf"
number=0
set -f # the brackets of an IPv6 address are no pattern
for app in $(printf '%s' "${NGINX_APPS:-}" | tr ',' ' '); do
  if ! printf '%s\n' "$app" | grep -Eqx '(/[A-Za-z0-9][A-Za-z0-9._~-]*)+/=([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}'; then
    message="NGINX_APPS: '$app' is not /PREFIX/=HOST:PORT, such as /shop/=shop:8000"
    printf '%s [emerg] %s#0: %s\n' "$(date '+%Y/%m/%d %H:%M:%S')" $$ "$message" | (as_json)
    exit 1
  fi
  number=$((number + 1))
  upstreams="$upstreams app$number=${app#*=}"
  printf 'upstream app%s { include upstream-app%s.conf; }\n' $number $number >>"$prefix/upstreams.conf"
  for path in "${app%%=*}" "= ${app%%/=*}"; do
    printf 'location %s { proxy_pass http://app%s; include app.conf; }\n' "$path" $number >>"$prefix/locations.conf"
  done
done

# The addresses behind a name in turn, ours each more often than idle connections are kept to it (nginx.conf, `keepalive 16`). Each
# try takes one of them off the list, also a try on a connection whose worker has died: with a shorter list nginx gives up where
# it could ask another worker. To other applications nothing is kept: twice is enough, and app.conf lets nginx try them all, as
# several requests at once take each other's turn, and two tries may meet one address. max_fails=0: one worker that dies must not count as the whole server being gone.
servers() { # NAME HOST:PORT
  host=${2%:*} port=${2##*:} times=2
  if [ "$1" = web ]; then times=18; fi
  case $host in
    \[*) echo "$host" ;;
    *[!0-9.]*) getent ahostsv4 "$host" | awk '{ print $1 }' | sort -u ;;
    *) echo "$host" ;;
  esac | awk -v port="$port" -v times="$times" '
    { address[NR] = $1 }
    END { for (i = 0; i < times; i++) for (n = 1; n <= NR; n++) printf "server %s:%s max_fails=0;\n", address[n], port }'
}
# While there is none: an address that refuses, so that nginx runs, answers 502, and finds the app when it comes.
nobody="server 127.0.0.1:1;"

# nginx looks a name up once, when it starts, and `server ... resolve` needs nginx 1.27.3. A container that was
# recreated has another address: look every two seconds, and reload when it changed. A reload loses no request.
# A look that finds nothing counts only the second time: a name server may stutter. $$ is nginx, later on.
follow() { # NAME HOST:PORT
  file=$prefix/upstream-$1.conf
  empty=0
  while sleep 2 && kill -0 $$ 2>/dev/null; do
    servers "$1" "$2" >"$file.new"
    if [ -s "$file.new" ]; then
      empty=0
    else
      empty=$((empty + 1))
      if [ "$empty" -lt 2 ]; then continue; fi
      echo "$nobody" >"$file.new"
    fi
    if ! cmp -s "$file.new" "$file"; then
      mv "$file.new" "$file"
      kill -HUP "$(cat "$prefix/nginx.pid")"
    fi
  done
}

for each in $upstreams; do
  file=$prefix/upstream-${each%%=*}.conf
  servers "${each%%=*}" "${each#*=}" >"$file"
  if [ ! -s "$file" ]; then echo "$nobody" >"$file"; fi
done
rm -f "$prefix/error.pipe"
mkfifo "$prefix/error.pipe"
as_json <"$prefix/error.pipe" &
for each in $upstreams; do
  # Each in a process of its own: a name that nobody knows may take seconds, and must not hold up the others.
  case ${each#*=} in \[*) ;; *[!0-9.]*:*) follow "${each%%=*}" "${each#*=}" & ;; esac
done
directives='daemon off;'
# Started by root, nginx' workers would become `nobody`, who cannot read a checkout in root's home. Better: do not
# run this as root; the container does not.
if [ "$(id -u)" = 0 ]; then directives="$directives user root;"; fi
# From here on this process is nginx, so that a signal to it is a signal to nginx. It keeps the pipe open as its
# standard error; when it ends, the reader does.
exec nginx -p "$prefix/" -c "$prefix/nginx.conf" -g "$directives" 2>"$prefix/error.pipe"

#!/bin/sh
# Starts nginx with this folder's configuration, in a container or on a machine without Docker.
#
#   NGINX_PREFIX    a folder it may write                     (/tmp/nginx)
#   NGINX_LISTEN    where it listens                          (0.0.0.0:8080)
#   NGINX_UPSTREAM  the app, HOST:PORT; a name is followed    (app:8000)
#   NGINX_STATIC    the folder of static files                (/srv/static)
#   NGINX_APPS      applications of your own, /PREFIX/=HOST:PORT[,...]; names are followed here, too   (none)
#   NGINX_TRUSTED_PROXIES  addresses and networks whose X-Forwarded-For and -Proto count   (none)
#   NGINX_TLS_CERT, NGINX_TLS_KEY  files, absolute; with both there is TLS, and plain HTTP is sent there   (none)
#   NGINX_TLS_LISTEN  where it listens for TLS                (0.0.0.0:8443)
#   NGINX_HTTPS_PORT  the port of TLS as clients see it       (8443)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=${NGINX_PREFIX:-/tmp/nginx}
listen=${NGINX_LISTEN:-0.0.0.0:8080}
upstream=${NGINX_UPSTREAM:-app:8000}
static=${NGINX_STATIC:-/srv/static}
certificate=${NGINX_TLS_CERT:-} key=${NGINX_TLS_KEY:-} tls_listen=${NGINX_TLS_LISTEN:-0.0.0.0:8443}
https_port=:${NGINX_HTTPS_PORT:-8443}
if [ "$https_port" = :443 ]; then https_port=; fi # as browsers write it
export TZ=UTC # nginx writes local time; Elasticsearch wants to be told, or UTC
umask 077

# nginx' error log has no format. Bytes that are not printable ASCII become `?`, a line is cut at 1500 characters,
# then what JSON needs is escaped. What has no time is said while nginx starts, before it has a log.
as_json() {
  started=$(date +%Y-%m-%dT%H:%M:%S.000Z)
  LC_ALL=C exec sed -u -E '
    s/[^ -~]/?/g
    s/^(.{1500}).*/\1 ... (cut)/
    s/SSL_CTX_use_PrivateKey.*key values mismatch.*/the certificate and the key of TLS do not belong together/
    s/[\\"]/\\&/g
    s|^([0-9]{4})/([0-9]{2})/([0-9]{2}) ([0-9:]{8}) \[([a-z]+)\] ([0-9]+)#[0-9]+: (.*)$|{"@timestamp":"\1-\2-\3T\4.000Z","log.level":"\5","message":"\7","ecs.version":"8.11.0","service.name":"tocsin-nginx","process.pid":\6,"event.dataset":"nginx.error"}|
    t
    s|^(.*)$|{"@timestamp":"'"$started"'","log.level":"error","message":"\1","ecs.version":"8.11.0","service.name":"tocsin-nginx","event.dataset":"nginx.error"}|' 2>/dev/null # that its reader was ended first is no line
}

refuse() { # MESSAGE
  printf '%s [emerg] %s#0: %s\n' "$(date '+%Y/%m/%d %H:%M:%S')" $$ "$1" | (as_json)
  exit 1
}

for file in "$certificate" "$key"; do
  if [ -z "$certificate$key" ]; then break; fi
  case $file in
    '') refuse "TLS needs both, a certificate and its key" ;;
    *[!A-Za-z0-9_/.@+,=:~-]* | [!/]*) refuse "TLS: '$file' is no absolute path of letters, digits and _/.@+,=:~-" ;;
  esac
  if ! [ -f "$file" ] || ! [ -r "$file" ]; then refuse "TLS: $file cannot be read by user $(id -u), as whom nginx runs"; fi
done
# nginx finds a wrong key only when it is of the same kind. Else it would start, and no handshake would succeed.
if [ -n "$certificate" ] && command -v openssl >/dev/null; then
  public=$(openssl x509 -noout -pubkey -in "$certificate" 2>/dev/null) || refuse "TLS: $certificate holds no certificate (PEM)"
  if [ "$(openssl pkey -passin pass: -pubout -in "$key" 2>/dev/null)" != "$public" ]; then
    refuse "TLS: $key does not belong to the certificate, or is no key (PEM, without a passphrase)"
  fi
fi
# HTTP/2 is a word of `listen` up to nginx 1.25.0, and a directive from then on, which finds fault with the word.
case $(nginx -v 2>&1) in
  */1.2[0-4].* | */1.25.0*) http2_word=' http2' http2_line= ;;
  *) http2_word='' http2_line='http2 on;' ;;
esac
# The answer to /api/health (health.conf) is kept in memory, in a folder that nginx holds a lock on for as long as it runs. Those
# that nobody holds go. On the disk it would be as good, until that is full: what nginx cannot keep it cuts off for who asks.
cache=$prefix/cache
if [ "${1:-}" != -t ]; then
  name=nginx-tocsin-$(id -u)
  for old in "/dev/shm/$name".*; do
    if [ -d "$old" ]; then flock --nonblock "$old" rm -rf "$old" || true; fi
  done
  # Not for a person: systemd deletes what is theirs there when they log out (`RemoveIPC=`), and no answer could be kept any more.
  # It has the name only when its lock is held: else another that starts now would delete it.
  if [ "$(id -u)" -lt 1000 ] && made=$(mktemp -d -p /dev/shm 2>/dev/null); then
    exec 9<"$made"
    flock 9 || true
    cache=/dev/shm/$name.${made##*.}
    mv "$made" "$cache"
  fi
fi
mkdir -p "$prefix/temp"
for file in "$here"/*.conf; do
  sed "s|@HERE@|$here|g; s|@LISTEN@|$listen|g; s|@STATIC@|$static|g; s|@CACHE@|$cache|g; s|@HTTPS_PORT@|$https_port|g
    s|@TLS_LISTEN@|$tls_listen$http2_word|g; s|@HTTP2@|$http2_line|g; s|@TLS_CERT@|$certificate|g; s|@TLS_KEY@|$key|g" \
    "$file" >"$prefix/${file##*/}"
done
if [ -z "$certificate$key" ]; then : >"$prefix/tls.conf"; fi

set -f # from here on; the brackets of an IPv6 address are no pattern
# Settings have checked these, too.
: >"$prefix/trusted-proxies.conf"
for proxy in $(printf '%s' "${NGINX_TRUSTED_PROXIES:-}" | tr ',' ' '); do
  if ! printf '%s\n' "$proxy" | grep -Eqx '[0-9A-Fa-f:.]+(/[0-9]{1,3})?'; then
    refuse "NGINX_TRUSTED_PROXIES: '$proxy' is not an address or a network, such as 192.0.2.7 or 10.0.0.0/8"
  fi
  printf 'set_real_ip_from %s;\n' "$proxy" >>"$prefix/trusted-proxies.conf"
done

# Each application has an upstream, and a location for what begins with its prefix, which it gets as it came. Settings have
# checked all of it (service/settings.py); here only that nothing else becomes part of the configuration.
upstreams="web=$upstream"
: >"$prefix/upstreams.conf"
: >"$prefix/locations.conf"
number=0
for app in $(printf '%s' "${NGINX_APPS:-}" | tr ',' ' '); do
  if ! printf '%s\n' "$app" | grep -Eqx '(/[A-Za-z0-9][A-Za-z0-9._~-]*)+/=([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}'; then
    refuse "NGINX_APPS: '$app' is not /PREFIX/=HOST:PORT, such as /shop/=shop:8000"
  fi
  number=$((number + 1))
  upstreams="$upstreams app$number=${app#*=}"
  printf 'upstream app%s { include upstream-app%s.conf; }\n' $number $number >>"$prefix/upstreams.conf"
  for path in "${app%%=*}" "= ${app%%/=*}"; do
    printf 'location %s { proxy_pass http://app%s; include app.conf; }\n' "$path" $number >>"$prefix/locations.conf"
  done
done

# Of several containers of ours, one that drains gets nothing new, long before it closes its socket: a POST that it has not
# accepted by then would be lost. Where all of them say that they are not ready, or who asks cannot, all stay.
staying() { # NAME PORT; reads addresses
  addresses=$(cat) ready=
  case $1:$addresses in
    web:*[!0-9.]*) # more than one
      for address in $addresses; do
        status=$(curl --silent --noproxy '*' --max-time 1 --output /dev/null --write-out '%{http_code}' "http://$address:$2/readyz") || true
        if [ "$status" != 503 ]; then ready="$ready $address"; fi
      done
      ;;
  esac
  for address in ${ready:-$addresses}; do echo "$address"; done
}

# The addresses behind a name in turn. Each try takes one of them off the list, also a try on a connection whose worker has died:
# ours must have more than the idle connections that are kept (nginx.conf, `keepalive 8`), or nginx gives up where it could ask
# another worker. Nor many more: one that is gone costs its connect timeout as often as it stands there (server.conf), one that
# refuses a line in the log. To other applications nothing is kept. Each stands there twice at least: two requests at once take
# each other's turn. max_fails=0: one worker that dies must not count as the whole server being gone.
servers() { # NAME HOST:PORT
  host=${2%:*} port=${2##*:} least=2
  if [ "$1" = web ]; then least=10; fi
  case $host in
    \[*) echo "$host" ;;
    *[!0-9.]*) getent ahostsv4 "$host" | awk '{ print $1 }' | sort -u | staying "$1" "$port" ;;
    *) echo "$host" ;;
  esac | awk -v port="$port" -v least="$least" '
    { address[NR] = $1 }
    END { for (i = 0; i < 2 || (NR && i * NR < least); i++) for (n = 1; n <= NR; n++) printf "server %s:%s max_fails=0;\n", address[n], port }'
}
health() { awk 'listed[$0]++ < 2' "$1" >"$prefix/upstream-health.conf"; } # FILE: the servers of `web`
# While there is none: an address that refuses, so that nginx runs, answers 502, and finds the app when it comes.
nobody="server 127.0.0.1:1;"

# nginx looks a name up once, when it starts, and `server ... resolve` needs nginx 1.27.3. A container that was
# recreated has another address: look every two seconds, and reload when it changed. A reload loses nothing that is in flight
# (docs/deploys.md).
# A look that finds nothing counts only the second time: a name server may stutter. One that cannot be written down,
# as where the disk is full, is none: the next one may. $$ is nginx, later on.
follow() { # NAME HOST:PORT
  file=$prefix/upstream-$1.conf
  empty=0
  while sleep 2 && kill -0 $$ 2>/dev/null; do
    servers "$1" "$2" >"$file.new" || continue
    if [ -s "$file.new" ]; then
      empty=0
    else
      empty=$((empty + 1))
      if [ "$empty" -lt 2 ]; then continue; fi
      echo "$nobody" >"$file.new" || continue
    fi
    if ! cmp -s "$file.new" "$file"; then
      pid=$(cat "$prefix/nginx.pid") || continue # it has not started yet
      if [ "$1" = web ]; then health "$file.new" || continue; fi
      mv "$file.new" "$file"
      kill -HUP "$pid" || true
    fi
  done
}

for each in $upstreams; do
  file=$prefix/upstream-${each%%=*}.conf
  servers "${each%%=*}" "${each#*=}" >"$file"
  if [ ! -s "$file" ]; then echo "$nobody" >"$file"; fi
done
health "$prefix/upstream-web.conf"
# Written, and not run: `make lint` asks nginx and others what they make of it.
if [ "${1:-}" = -t ]; then exec nginx -t -q -p "$prefix/" -c "$prefix/nginx.conf"; fi
rm -f "$prefix/error.pipe" "$prefix/nginx.pid" # a killed master's number may be somebody else's by now
mkfifo "$prefix/error.pipe"
as_json <"$prefix/error.pipe" &
for each in $upstreams; do
  # Each in a process of its own: a name that nobody knows may take seconds, and must not hold up the others.
  case ${each#*=} in \[*) ;; *[!0-9.]*:*) follow "${each%%=*}" "${each#*=}" 2>"$prefix/error.pipe" & ;; esac
done
directives='daemon off;'
# Started by root, nginx' workers would become `nobody`, who cannot read a checkout in root's home. Better: do not
# run this as root; the container does not.
if [ "$(id -u)" = 0 ]; then directives="$directives user root;"; fi
# From here on this process is nginx, so that a signal to it is a signal to nginx. It keeps the pipe open as its
# standard error; when it ends, the reader does.
exec nginx -p "$prefix/" -c "$prefix/nginx.conf" -g "$directives" 2>"$prefix/error.pipe"

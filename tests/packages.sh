#!/bin/sh
# What the tests run besides Python: nginx, HAProxy, openssl, curl, Alertmanager, and Chromium with npm for the page, from
# Debian's packages. Installs what is missing when it may, else says the one command that does.
set -eu
PATH=$PATH:/usr/sbin
missing=
command -v nginx >/dev/null || missing="$missing nginx-light"
command -v haproxy >/dev/null || missing="$missing haproxy"
command -v openssl >/dev/null || missing="$missing openssl"
command -v curl >/dev/null || missing="$missing curl"
command -v prometheus-alertmanager >/dev/null || missing="$missing prometheus-alertmanager"
command -v chromium >/dev/null || missing="$missing chromium"
command -v npm >/dev/null || missing="$missing nodejs npm"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "The tests need:$missing. As root: apt-get install -y --no-install-recommends$missing" >&2
  exit 1
fi
echo "Installing$missing." >&2
# Their own services must not start: the tests start what they need, on loopback.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get -qq update
# shellcheck disable=SC2086 # words
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null

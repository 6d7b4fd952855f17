#!/bin/sh
# What the tests and `make bench` run besides Python, from Debian's packages: what Tocsin works with, Chromium with npm for the
# page, and wrk with those that Tocsin is compared with.
# Installs what is missing when it may, else says the one command that does.
set -eu
PATH=$PATH:/usr/sbin
missing=
command -v nginx >/dev/null || missing="$missing nginx-light"
command -v haproxy >/dev/null || missing="$missing haproxy"
command -v openssl >/dev/null || missing="$missing openssl"
command -v curl >/dev/null || missing="$missing curl"
command -v jq >/dev/null || missing="$missing jq"
command -v prometheus-alertmanager >/dev/null || missing="$missing prometheus-alertmanager"
command -v prometheus >/dev/null || missing="$missing prometheus"
ls /usr/lib/*/rsyslog/omelasticsearch.so >/dev/null 2>&1 || missing="$missing rsyslog rsyslog-elasticsearch"
command -v systemd-analyze >/dev/null || missing="$missing systemd"
command -v nagios4 >/dev/null || missing="$missing nagios4-core"
command -v ngircd >/dev/null || missing="$missing ngircd"
command -v faketime >/dev/null || missing="$missing faketime"
command -v chromium >/dev/null || missing="$missing chromium"
if apt-cache show ntfy >/dev/null 2>&1; then
  command -v ntfy >/dev/null || missing="$missing ntfy"
else
  dpkg -s libsqlite3-0 >/dev/null 2>&1 || missing="$missing libsqlite3-0"
fi
command -v wrk >/dev/null || missing="$missing wrk"
command -v prometheus-node-exporter >/dev/null || missing="$missing prometheus-node-exporter"
if ! command -v netdata >/dev/null; then
  # Debian has made one package of the two.
  if apt-cache show netdata-core >/dev/null 2>&1; then missing="$missing netdata-core"; else missing="$missing netdata"; fi
fi
command -v npm >/dev/null || missing="$missing nodejs npm"
if [ -n "$missing" ]; then
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
fi

# ntfy came into Debian with trixie. On an older one the package is fetched from there, and unpacked for the tests alone.
if ! command -v ntfy >/dev/null && [ ! -x .venv/trixie/usr/bin/ntfy ]; then
  echo "Fetching Debian trixie's ntfy into .venv." >&2
  folder=$PWD/.venv/trixie
  mkdir -p "$folder/sources" "$folder/lists/partial"
  awk 'BEGIN { RS = ""; ORS = "\n\n" } NR == 1' /etc/apt/sources.list.d/debian.sources |
    sed "s/^Suites:.*/Suites: trixie/" >"$folder/sources/trixie.sources"
  trixie() {
    (cd "$folder" && apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$folder/sources" \
      -o "Dir::State::Lists=$folder/lists" -o APT::Sandbox::User=root "$@")
  }
  trixie update
  trixie download ntfy
  dpkg -x "$folder"/ntfy_*.deb "$folder"
  rm -rf "$folder/lists"
fi

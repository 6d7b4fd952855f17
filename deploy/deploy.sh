#!/bin/sh
# `make deploy`: a new version with Compose that costs no request (docs/deploys.md). For each app container a second one of the
# new version is started beside it; nginx finds them, then the old ones drain and go. Where the new version does not become
# healthy it is taken away again, and the old one has gone on all the time.
# shellcheck disable=SC2086 # lists of containers are words
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

old=$(docker compose ps --quiet app)
if [ -z "$old" ]; then
  say "No app container runs here; make up starts the stack."
  exit 1
fi
count=$(printf '%s\n' "$old" | wc -l)
known=$(docker inspect --format '{{.Image}} {{.Config.Image}}' $old | head -n 1)

back() {
  say "$1 The old version goes on."
  new=$(docker compose ps --all --quiet app | grep -vxF "$old" || true)
  if [ -n "$new" ]; then
    say "The end of what the new one says:"
    for each in $new; do docker logs --tail 30 "$each" 2>&1 | grep -v '"log.level":"info"' | tail -n 5 >&2 || true; done
    docker rm --force --volumes $new >/dev/null
  fi
  docker tag $known # its name is that of the new one since the build
  exit 1
}

docker compose build app
docker compose run --rm --no-deps -T app tocsin check-config >&2 || back "The new version does not take the settings."
docker compose up --detach --wait --no-deps --no-recreate --scale app=$((2 * count)) app || back "The new version does not become healthy."
sleep 10 # nginx looks every two seconds which containers there are
docker stop $old >/dev/null # each drains, and answers what it has
docker rm $old >/dev/null
say "The new version answers. When deploy/nginx has changed, too: docker compose restart nginx"

#!/usr/bin/env bash
# Bring up a Docker engine for the tests, and the image's base where no registry can be reached.
#
#   scripts/docker_engine.sh install  from Debian's packages, unless dockerd is there; the tests start one of their own
#   scripts/docker_engine.sh start    use the engine that answers; else start one, installed from Debian's packages if need be
#   scripts/docker_engine.sh base     make debian:trixie-slim from Debian's archive, so that the Dockerfile builds unchanged
#
# All need root and a Debian or Ubuntu; where that is missing they say so and fail.
set -euo pipefail

needs() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "$1 is missing and cannot be installed: not root, or no apt-get" >&2
    return 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${@:2}"; } </dev/null >&2
}

answers() { docker info >/dev/null 2>&1; }

install() { needs dockerd docker.io iptables; }

start() {
  if command -v docker >/dev/null && answers; then return; fi
  install
  if [ "$(id -u)" != 0 ]; then
    echo "the engine does not answer and only root can start it" >&2
    return 1
  fi
  local log="${TMPDIR:-/tmp}/dockerd.log"
  setsid dockerd --storage-driver=overlay2 </dev/null >>"$log" 2>&1 &
  for _ in $(seq 60); do
    if answers; then return; fi
    sleep 0.5
  done
  echo "the engine did not come up; the end of $log:" >&2
  tail -n 20 "$log" >&2
  return 1
}

base() {
  start
  if docker image inspect debian:trixie-slim >/dev/null 2>&1 || docker pull -q debian:trixie-slim >/dev/null 2>&1; then
    return
  fi
  needs debootstrap debootstrap
  local changes=()
  root="$(mktemp -d)" # not local: the trap outlives the function
  trap 'rm -rf "$root"' EXIT
  debootstrap --variant=minbase --include=ca-certificates trixie "$root" >&2
  # Certificates that this machine trusts beside Debian's own, such as those of a proxy, are trusted in the image too.
  if compgen -G "/usr/local/share/ca-certificates/*.crt" >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
    chroot "$root" update-ca-certificates >&2
    changes+=(--change "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt")
    changes+=(--change "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt")
  fi
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" -c . | docker import "${changes[@]}" --change 'CMD ["bash"]' - debian:trixie-slim >&2
}

case "${1:-}" in
  install) install ;;
  start) start ;;
  base) base ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac

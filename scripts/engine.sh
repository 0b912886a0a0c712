#!/usr/bin/env bash
# A private Docker Engine for tests: its own data root, exec root, pid file and socket, all in
# one directory, so that it never touches an engine that is already there.
#
#   eval "$(scripts/engine.sh start [DIR])"   install if missing, start, export DOCKER_HOST ...
#   eval "$(scripts/engine.sh env [DIR])"     export the same for one that runs
#   scripts/engine.sh stop [DIR]              stop that one, unmount, remove DIR
#
# DIR defaults to RAGDOCK_ENGINE_DIR, for `start` then to a new directory under TMPDIR; `start` and
# `env` export it. Needs root, and apt when dockerd or iptables is missing. With
# RAGDOCK_USE_AMBIENT_DOCKER=1 an engine that answers at the caller's DOCKER_HOST is used instead,
# and `stop` leaves it alone. RAGDOCK_DOCKER_CLI names a client; otherwise the first one that can
# build with BuildKit is taken (a client of version 23 or newer without buildx can't).
# Messages go to stderr, `export` lines to stdout.
set -euo pipefail

say() { printf 'engine: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

main() {
    local command=${1:-}
    dir=${2:-${RAGDOCK_ENGINE_DIR:-}}
    case $command in
        start) start ;;
        env) need_dir; print_env ;;
        stop)
            [ -z "$dir" ] || [ -e "$dir" ] || { say "nothing to stop in $dir"; return; }
            need_dir
            stop
            ;;
        *) sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
}

need_dir() {
    [ -n "$dir" ] || die "no directory: give one, or set RAGDOCK_ENGINE_DIR (\`start\` exports it)"
    [ -f "$dir/ragdock-engine" ] || die "$dir is no engine directory of this script"
}

start() {
    [ -n "$dir" ] || dir=$(mktemp -d "${TMPDIR:-/tmp}/ragdock-engine.XXXXXX")
    mkdir -p "$dir/bin" "$dir/config"
    dir=$(cd "$dir" && pwd -P)
    touch "$dir/ragdock-engine"
    if use_ambient; then
        echo "${DOCKER_HOST:-unix:///var/run/docker.sock}" > "$dir/ambient"
        say "using the ambient engine at $(cat "$dir/ambient")"
    elif running; then
        say "already running in $dir"
    else
        install_engine
        start_daemon
    fi
    pick_client
    print_env
}

use_ambient() {
    [ "${RAGDOCK_USE_AMBIENT_DOCKER:-}" = 1 ] || return 1
    docker version --format '{{.Server.Version}}' > /dev/null 2>&1 && return
    say "RAGDOCK_USE_AMBIENT_DOCKER=1, but no engine answers: starting one"
    return 1
}

install_engine() {
    [ "$(id -u)" = 0 ] || die "starting an engine needs root (or RAGDOCK_USE_AMBIENT_DOCKER=1)"
    local missing=()
    command -v dockerd > /dev/null || missing+=(docker.io)
    command -v iptables > /dev/null || missing+=(iptables)
    command -v ip > /dev/null || missing+=(iproute2)
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]} (apt)"
    # The packages would start a system-wide engine; policy-rc.d with 101 says no to that.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
        # shellcheck disable=SC2064 # The path is meant as it is now.
        trap "rm -f $policy" EXIT
    fi
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >&2
}

running() {
    [ -f "$dir/docker.pid" ] && is_ours "$(cat "$dir/docker.pid")"
}

# A pid file outlives its process and pids are used again: only a process whose command line names
# our directory is ours.
is_ours() {
    tr '\0' ' ' 2> /dev/null < "/proc/$1/cmdline" | grep -qF -- "$dir/"
}

start_daemon() {
    # An earlier crash leaves files that a new daemon would trip over.
    rm -f "$dir/docker.pid" "$dir/docker.sock"
    ip link show docker0 > /dev/null 2>&1 || touch "$dir/made-docker0"
    say "starting dockerd $(dockerd --version | awk '{print $3}' | tr -d ,) in $dir"
    setsid nohup dockerd --data-root "$dir/data" --exec-root "$dir/exec" \
        --pidfile "$dir/docker.pid" --host "unix://$dir/docker.sock" --group root \
        < /dev/null > "$dir/dockerd.log" 2>&1 &
    local pid=$! waited=0
    until curl_ping; do
        sleep 0.5
        waited=$((waited + 1))
        kill -0 "$pid" 2> /dev/null || { tail -20 "$dir/dockerd.log" >&2; die "dockerd died"; }
        [ $waited -lt 120 ] || { tail -20 "$dir/dockerd.log" >&2; die "not ready after 60 s"; }
    done
}

curl_ping() {
    python3 - "$dir/docker.sock" 2> /dev/null <<'PY'
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(2)
    s.connect(sys.argv[1])
    s.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
    sys.exit(b" 200 " not in s.recv(64))
PY
}

host() {
    if [ -f "$dir/ambient" ]; then cat "$dir/ambient"; else echo "unix://$dir/docker.sock"; fi
}

# The chosen client becomes $dir/bin/docker, first on PATH, so that compose finds it as well.
pick_client() {
    local cli probe="$dir/probe"
    mkdir -p "$probe"
    printf 'FROM scratch\nLABEL probe=1\n' > "$probe/Dockerfile"
    while read -r cli; do
        # Not by way of another engine's link, which goes when that engine does.
        cli=$(readlink -f "$cli") && [ -x "$cli" ] || continue
        if DOCKER_HOST=$(host) DOCKER_BUILDKIT=1 "$cli" build -q "$probe" > "$probe/log" 2>&1; then
            ln -sfn "$cli" "$dir/bin/docker"
            say "client $cli ($("$cli" --version)) builds with BuildKit"
            return
        fi
        say "client $cli can't build with BuildKit: $(tail -1 "$probe/log")"
    done <<< "$(echo "${RAGDOCK_DOCKER_CLI:-/nowhere}"; type -ap docker; echo /usr/bin/docker)"
    die "no docker client that can build with BuildKit (install docker.io or docker-buildx)"
}

print_env() {
    [ -L "$dir/bin/docker" ] || die "not started: run \`scripts/engine.sh start $dir\`"
    cat <<SH
export RAGDOCK_ENGINE_DIR='$dir'
export DOCKER_HOST='$(host)'
export DOCKER_BUILDKIT=1
export COMPOSE_DOCKER_CLI_BUILD=1
export PATH='$dir/bin':"\$PATH"
SH
    # The user's own configuration may hold credentials and plugins that tests must not depend on.
    [ -f "$dir/ambient" ] || echo "export DOCKER_CONFIG='$dir/config'"
}

stop() {
    if [ ! -f "$dir/ambient" ]; then
        local name
        for name in docker.pid exec/containerd/containerd.pid; do
            [ -f "$dir/$name" ] && end_process "$(cat "$dir/$name")" "$name"
        done
        unmount_all
        [ -f "$dir/made-docker0" ] && { ip link delete docker0 2> /dev/null || true; }
    fi
    rm -rf --one-file-system "$dir"
    say "stopped, $dir removed"
}

end_process() {
    local pid=$1 name=$2 waited=0
    is_ours "$pid" || return 0
    say "stopping $name ($pid)"
    kill "$pid" 2> /dev/null || return 0
    while is_ours "$pid"; do
        sleep 0.5
        waited=$((waited + 1))
        [ $waited -lt 60 ] || { say "$name ignores SIGTERM: SIGKILL"; kill -9 "$pid"; sleep 1; break; }
    done
}

unmount_all() {
    # Deepest first; a lazy unmount is the last resort for one that something still holds.
    awk -v root="$dir/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r | while read -r at; do
        umount "$at" 2> /dev/null || umount -l "$at" || say "can't unmount $at"
    done
}

main "$@"

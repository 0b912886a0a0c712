#!/usr/bin/env bash
# Provides the two base images in the engine at DOCKER_HOST: the official ones when they are there
# or can be pulled, else stand-ins made of Debian packages.
#
#   eval "$(scripts/standin.sh)"      exports BASE_IMAGE and REDIS_IMAGE
#
# A stand-in for python:3.11-slim-bookworm is Debian bookworm with CPython 3.11 and pip under
# /usr/local; one for redis is Debian's redis-server, user 999:1000 and an entrypoint that behaves
# like the official one. The host's CA bundle and package index go into the stand-ins, so that
# nothing about this machine stands in our own Dockerfile. Needs root and apt.
# RAGDOCK_STANDIN_CACHE (default .cache/standin) keeps them as a tarball: a second run takes
# seconds. RAGDOCK_STANDIN=always skips the pull, =never forbids stand-ins.
# RAGDOCK_DEBIAN_MIRROR names another mirror. Messages go to stderr, `export` lines to stdout.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${RAGDOCK_STANDIN:-auto}
cache=${RAGDOCK_STANDIN_CACHE:-.cache/standin}
mirror=${RAGDOCK_DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${RAGDOCK_DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
python_tag=ragdock-standin/python:3.11-slim-bookworm
redis_tag=ragdock-standin/redis:7-bookworm
debian_tag=ragdock-standin/debian:bookworm

say() { printf 'standin: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What the Dockerfile and the compose file name, so that there is one place for each.
official_python=$(sed -n 's/^ARG BASE=//p' Dockerfile)
# shellcheck disable=SC2016 # The dollar is compose's.
official_redis=$(sed -n 's/.*\${REDIS_IMAGE:-\(.*\)}.*/\1/p' docker-compose.yml)

main() {
    [ -n "$official_python" ] && [ -n "$official_redis" ] || die "no base image found in our files"
    if [ "$mode" != always ] && official; then
        summary "official images" "$official_python" "$official_redis"
    elif [ "$mode" = never ]; then
        die "the official images can't be had, and RAGDOCK_STANDIN=never"
    else
        standins
        summary "STAND-INS, not the official images" "$python_tag" "$redis_tag"
    fi
}

official() {
    local image
    for image in "$official_python" "$official_redis"; do
        docker image inspect "$image" > /dev/null 2>&1 && continue
        registry_answers || { say "no registry in reach"; return 1; }
        say "pulling $image"
        timeout 300 docker pull -q "$image" >&2 || { say "can't pull $image"; return 1; }
    done
}

# An HTTP answer of any kind (it is a 401) says that a pull has a chance.
registry_answers() {
    python3 - <<'PY'
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=8)
except urllib.error.HTTPError:
    pass
except OSError:
    sys.exit(1)
PY
}

standins() {
    local work key tarball
    work=$(mktemp -d "${TMPDIR:-/tmp}/ragdock-standin.XXXXXX")
    # shellcheck disable=SC2064 # The path is meant as it is now.
    trap "rm -rf '$work'" EXIT
    trust > "$work/ca-certificates.crt"
    pip_config > "$work/pip.conf"
    key=$(cat "$0" "$work/ca-certificates.crt" "$work/pip.conf" | sha256sum | cut -c1-16)
    tarball=$cache/$key-$(dpkg --print-architecture).tar
    mkdir -p "$cache"
    if [ -f "$tarball" ]; then
        say "STAND-IN images from $tarball"
        docker load -q -i "$tarball" >&2
        return
    fi
    tools
    debian "$work"
    entrypoint > "$work/docker-entrypoint.sh"
    dockerfile > "$work/Dockerfile"
    rm -f "$work/rootfs.tar"
    say "STAND-IN for $official_python"
    DOCKER_BUILDKIT=1 docker build -q --target python -t $python_tag "$work" >&2
    say "STAND-IN for $official_redis"
    DOCKER_BUILDKIT=1 docker build -q --target redis -t $redis_tag "$work" >&2
    docker save -o "$tarball.part" $python_tag $redis_tag
    mv "$tarball.part" "$tarball"
    # Older ones belong to another version of this script or another trust store.
    find "$cache" -name '*.tar' ! -name "$(basename "$tarball")" -delete
}

tools() {
    [ "$(id -u)" = 0 ] || die "making a stand-in needs root"
    command -v mmdebstrap > /dev/null && return
    say "installing mmdebstrap (apt)"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        mmdebstrap debian-archive-keyring >&2
}

trust() { cat "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"; }

# pip brings its own CA bundle; inside, it shall trust and ask what the host's pip does.
pip_config() {
    echo '[global]'
    echo 'cert = /etc/ssl/certs/ca-certificates.crt'
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
}

# usr-is-merged spares usrmerge and the perl that it pulls; docs and locales are left out.
debian() {
    say "STAND-IN: Debian bookworm from $mirror (about a minute)"
    mmdebstrap --quiet --mode=root --variant=minbase \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --include=usr-is-merged,ca-certificates,netbase,tzdata \
        --include=libffi8,libsqlite3-0,libreadline8,libexpat1,libbz2-1.0,liblzma5,libuuid1 \
        --include=libncursesw6,libssl3 \
        --customize-hook="rm -rf \"\$1\"/var/lib/apt/lists/* \"\$1\"/var/cache/apt/*" \
        --customize-hook="rm -rf \"\$1\"/var/log/* \"\$1\"/etc/resolv.conf \"\$1\"/etc/hostname" \
        bookworm "$1/rootfs.tar" \
        "deb $mirror bookworm main" "deb $mirror bookworm-updates main" \
        "deb $security bookworm-security main" > "$1/log" 2>&1 ||
        { tail -30 "$1/log" >&2; die "mmdebstrap failed"; }
    docker import - $debian_tag < "$1/rootfs.tar" > /dev/null
}

# Debian's CPython looks for packages in dist-packages; one directory with two names lets pip and
# venv behave as they do in the official image.
dockerfile() {
    cat <<EOF
FROM $debian_tag AS debian
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
LABEL org.opencontainers.image.description="STAND-IN made of Debian packages by scripts/standin.sh"

FROM debian AS packages
WORKDIR /packages
RUN apt-get update -qq \\
 && apt-get download -qq python3.11 python3.11-minimal libpython3.11-minimal \\
    libpython3.11-stdlib python3-pip-whl \\
 && for each in *.deb; do dpkg-deb -x \$each root; done \\
 && mkdir -p usr/local/bin usr/local/lib \\
 && mv root/usr/bin/python3.11 usr/local/bin/ \\
 && mv root/usr/lib/python3.11 usr/local/lib/ \\
 && rm -f usr/local/lib/python3.11/EXTERNALLY-MANAGED \\
 && mkdir usr/local/lib/python3.11/site-packages \\
 && ln -s site-packages usr/local/lib/python3.11/dist-packages \\
 && ln -s python3.11 usr/local/bin/python3 && ln -s python3 usr/local/bin/python

FROM debian AS python
COPY --from=packages /packages/usr/local/ /usr/local/
COPY --from=packages /packages/root/usr/share/python-wheels/ /tmp/wheels/
RUN python -m zipfile -e /tmp/wheels/pip-*.whl /usr/local/lib/python3.11/site-packages \\
 && printf '#!/usr/local/bin/python\nfrom pip._internal.cli.main import main\nmain()\n' \\
    > /usr/local/bin/pip && chmod 755 /usr/local/bin/pip && rm -r /tmp/wheels \\
 && python -c "import bz2, ctypes, lzma, sqlite3, ssl, venv" && pip --version
COPY pip.conf /etc/pip.conf
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["python3"]

FROM debian AS redis
RUN groupadd -r -g 1000 redis && useradd -r -g redis -u 999 -M -d /data redis \\
 && printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d \\
 && apt-get update -qq \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server \\
 && rm -rf /var/lib/apt/lists/* /var/log/* && mkdir /data && chown redis:redis /data
COPY docker-entrypoint.sh /usr/local/bin/
RUN chmod 755 /usr/local/bin/docker-entrypoint.sh
WORKDIR /data
ENTRYPOINT ["docker-entrypoint.sh"]
EXPOSE 6379
CMD ["redis-server"]
EOF
}

# Like the official entrypoint: options alone mean redis-server, root becomes redis, a tight umask.
# The official server is built with protected mode off; Debian's needs to be told.
entrypoint() {
    cat <<'EOF'
#!/bin/sh
set -e
case $1 in -* | *.conf) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis '{}' +
    exec setpriv --reuid redis --regid redis --clear-groups --nnp "$0" "$@"
fi
[ "$(umask)" != 0022 ] || umask 0077
if [ "$1" = redis-server ]; then
    echo "Starting Redis Server"
    set -- "$@" --protected-mode no
fi
exec "$@"
EOF
}

summary() {
    say "---- base images: $1"
    local image
    for image in "$2" "$3"; do
        say "  $image $(docker image inspect -f '{{.Size}}' "$image" | awk '{printf "%.0f MB", $1 / 1e6}')"
    done
    printf 'export BASE_IMAGE=%q\nexport REDIS_IMAGE=%q\n' "$2" "$3"
}

main

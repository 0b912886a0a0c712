#!/usr/bin/env bash
# Starts Grafana with the password that `.env` has, and refuses one that protects nothing.
#
# On the loopback (BIND is 127.0.0.1) no password is needed: whoever opens the page may look and
# change nothing. Beyond it, GRAFANA_PASSWORD must be a real one, and nobody looks without.
set -euo pipefail

# What was found in lists of defaults, and what people write when they are asked for a password.
weak='admin password grafana changeme secret ragdock'

if [ -z "$PASSWORD" ] && [ "$BIND" = 127.0.0.1 ]; then
    GF_AUTH_ANONYMOUS_ENABLED=true
    GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer
    GF_AUTH_DISABLE_LOGIN_FORM=true
    # Nobody needs to know it.
    PASSWORD=$(head -c 24 /dev/urandom | base64)
    export GF_AUTH_ANONYMOUS_ENABLED GF_AUTH_ANONYMOUS_ORG_ROLE GF_AUTH_DISABLE_LOGIN_FORM
elif [ "$BIND" != 127.0.0.1 ]; then
    for each in $weak; do
        case $PASSWORD in "$each" | "$each"[0-9]*) PASSWORD= ;; esac
    done
    if [ "${#PASSWORD}" -lt 12 ]; then
        echo "GRAFANA_BIND=$BIND opens Grafana to others: set GRAFANA_PASSWORD in .env to 12 or" \
            "more characters that are no default, for example: openssl rand -base64 18" >&2
        exit 1
    fi
fi
GF_SECURITY_ADMIN_PASSWORD=$PASSWORD
export GF_SECURITY_ADMIN_PASSWORD
unset PASSWORD
exec "$@"

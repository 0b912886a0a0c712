#!/usr/bin/env bash
# Runs tests/container on an engine of its own, with official base images or stand-ins.
# Arguments go to pytest: scripts/test-container.sh -x, or a file: ... tests/container/test_image.py
# An engine from an earlier `eval "$(scripts/engine.sh start)"` is used and left running.
# PYTHON names the interpreter with the packages of requirements/dev.txt.
# BASE_IMAGE and REDIS_IMAGE, as scripts/standin.sh exports them, spare another look for them.
# RAGDOCK_TEST_IMAGE names the image that is built, so that two runs can share an engine.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${RAGDOCK_ENGINE_DIR:-}" ]; then
    environment=$(scripts/engine.sh start)
    eval "$environment"
    trap 'scripts/engine.sh stop 2> /dev/null' EXIT
fi
if [ -z "${BASE_IMAGE:-}" ] || [ -z "${REDIS_IMAGE:-}" ]; then
    environment=$(scripts/standin.sh)
    eval "$environment"
fi
run() {
    RAGDOCK_CONTAINER_TESTS=1 "${PYTHON:-python}" -m pytest "$@"
}

# What takes many minutes runs when it is asked for: make test-bounded.
case " $* " in
    *" -m "*tests/container* | *tests/container*" -m "*) run "$@" ;;
    *" -m "*) run tests/container "$@" ;;
    *tests/container*) run -m "not slow" "$@" ;;
    *)
        # Most of their time is waiting, so that two files run side by side; what measures time, or
        # warns when something is slow, has the machine for itself.
        first=0
        run tests/container -m "not slow and not timing" \
            --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@" || first=$?
        run tests/container -m "not slow and timing" "$@"
        exit $first
        ;;
esac

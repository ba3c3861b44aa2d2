# The one image of the operator, the gateway and the command line.
#
# Two ways to build it, from the same lines:
#   docker build --tag perdure/perdure:dev .          online: dependencies come from the package index, as uv.lock says
#   python3 hack/cluster/image_builder build --tag perdure/perdure:dev
#       without network and without an engine: wheelhouse/ and dist/ in the build context hold everything as wheels
#
# What one of the two does not have is copied with a glob, since COPY of a missing file is an error.
#
# Everything that comes from a package index has a version and a hash: in uv.lock what runs, in build-tools.txt what
# builds. The base image is an argument: give it with the digest that your registry has for the tag,
#   --build-arg PYTHON_IMAGE=docker.io/library/python:3.13-slim@sha256:…
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim

FROM ${PYTHON_IMAGE} AS dependencies
# The official base ships its standard library uncompiled, and nothing can be compiled on a read-only root filesystem:
# done here once, it is not done at every start.
RUN python -m compileall -q -x '/(site-packages|dist-packages|ensurepip|idlelib|tkinter|turtledemo|pydoc_data|test)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/perdure/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Mounted rather than copied, so that no layer carries the wheels. The lock file, which decides what they are, is copied:
# not every builder looks into a mount to see whether its cache still holds.
COPY uv.lock /opt/perdure/
RUN --mount=type=bind,target=/context set -eu; \
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore; \
    python -m venv --without-pip /opt/perdure; \
    pins=/context/wheelhouse/pins.txt; \
    from="--no-index --find-links /context/wheelhouse"; \
    if [ ! -e "$pins" ]; then \
        pins=/tmp/pins.txt; \
        from=""; \
        pip install --quiet --require-hashes --target /tmp/tools --requirement /context/build-tools.txt; \
        /tmp/tools/bin/uv export --quiet --project /context --frozen --no-dev --no-emit-workspace --output-file "$pins"; \
    fi; \
    pip --python /opt/perdure/bin/python install --quiet --no-compile --no-deps --require-hashes $from --requirement "$pins"; \
    rm -rf /tmp/tools /tmp/pins.txt; \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/perdure/lib

FROM dependencies AS project
WORKDIR /build
COPY uv.lock pyproject.tom[l] README.m[d] LICENS[E] build-tools.tx[t] ./
COPY uv.lock operato[r] ./operator/
COPY uv.lock dis[t] ./dist/
# Into a root of its own, so that it becomes a layer of its own: a change of ours replaces nothing else.
RUN set -eu; \
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore; \
    if ! ls dist/perdure-*.whl >/dev/null 2>&1; then \
        pip install --quiet --require-hashes --target /tmp/tools --requirement build-tools.txt; \
        PYTHONPATH=/tmp/tools pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .; \
    fi; \
    pip --python /opt/perdure/bin/python install --quiet --no-index --no-compile --no-deps --ignore-installed \
        --no-warn-script-location --root /project dist/perdure-*.whl; \
    python -m compileall -q --invalidation-mode unchecked-hash -s /project /project/opt/perdure/lib

FROM dependencies
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Perdure" \
      org.opencontainers.image.description="Durable agent workflows for Kubernetes: operator, gateway and command line" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["perdure"]
COPY --from=project /project/opt/perdure /opt/perdure

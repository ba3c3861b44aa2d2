#!/bin/sh
# Runs uv, installing it into .tools/ first where the machine has none: `make test` and `make demo` must work
# on a machine that has nothing but python3 and make.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
if command -v uv >/dev/null 2>&1; then
    exec uv "$@"
fi
if [ ! -x "$root/.tools/bin/uv" ]; then
    echo "installing uv into .tools/ …" >&2
    python3 -m venv "$root/.tools" || {
        echo "python3 has no venv module; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
    # The version and hashes that build the image, without the build backend.
    sed -n '/^uv==/,$p' "$root/build-tools.txt" >"$root/.tools/uv.txt"
    "$root/.tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$root/.tools/uv.txt"
fi
exec "$root/.tools/bin/uv" "$@"

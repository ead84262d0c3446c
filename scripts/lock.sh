#!/usr/bin/env bash
# Writes requirements.lock (all of .venv), requirements-run.lock (what `make install` takes) and
# requirements-build.lock (what builds the others), each with exact versions and hashes, from
# pyproject.toml. Versions already locked stay; UPGRADE=1 takes the newest of all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

python=.venv/bin/python
# Markers such as python_version are settled now: settle them for the oldest Python that we support. What
# is needed there is enough for later ones.
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    die "the lock is made with Python 3.11: make lock PYTHON=python3.11"

compile() {
    CUSTOM_COMPILE_COMMAND='make lock' "$python" -m piptools compile --quiet --generate-hashes --allow-unsafe \
        --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$@"
}
compile ${UPGRADE:+--upgrade} --extra run --extra test --extra dev -o requirements.lock pyproject.toml
compile --extra run -c requirements.lock -o requirements-run.lock pyproject.toml
printf '%s\n' pip wheel hatchling editables setuptools setuptools-scm Cython |
    compile -c requirements.lock -o requirements-build.lock -

#!/usr/bin/env bash
# All that `make run` and `make test` need on a fresh Debian 12: the Debian packages that are missing, and
# .venv with exactly what requirements.lock says. A second run finds it done and takes a moment.
#
#   PYTHON=/path/to/python3   the interpreter to use instead of the first fitting one in PATH
#   WITH_SYSTEMD=1            also what the slow tests check units with
#   WITH_CONTAINERS=1         also what they run containers with
#   WITH_KERNELS=1            and other kernels
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

root=$(pwd -P)
venv=$root/.venv
stamp=$venv/.stamp

# The place is part of it: a virtual environment that was copied or moved points to where it was.
state() {
    printf '%s\n' "$root"
    sha256sum requirements.lock requirements-build.lock pyproject.toml scripts/setup.sh scripts/common.sh
}
ready() {
    local base
    [ "$(state)" = "$(cat "$stamp" 2>/dev/null)" ] || return 1
    base=$("$venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null) || return 1
    [ -z "${PYTHON:-}" ] || [[ "$(describe_python "$PYTHON")" == *" $base" ]]
}

read -r -a packages < <(missing_packages | tr '\n' ' ') || true
if [ ${#packages[@]} -eq 0 ] && ready; then exit 0; fi

# Two of these at once: the second waits, and then finds it done.
exec 9>.venv.lock
flock 9

python_packages=""
if ! ready; then
    # Word splitting of the lists is meant, here and below.
    # shellcheck disable=SC2086
    find_python $python_candidates
fi
read -r -a packages < <(echo "$python_packages" "$(missing_packages | tr '\n' ' ')") || true
install_packages "${packages[@]}"
if ready; then exit 0; fi

case $(describe_python "$python") in
    whole\ *) ;;
    *) die "no Python 3.11 or later with venv and headers was found; install one, or name it with PYTHON=" ;;
esac

say "making .venv with $python"
rm -rf "$venv"
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip -qq install --no-deps)
# Twice: what builds must be there before pyfuse3 and wqfs can be built without isolation, and with
# isolation pip would fetch builders that no lock names.
"${pip[@]}" --require-hashes --only-binary :all: -r requirements-build.lock
"${pip[@]}" --require-hashes --no-build-isolation -r requirements.lock
"${pip[@]}" --no-build-isolation -e .
"$venv/bin/python" -m pip -qq check
state >"$stamp"
say "set up: $("$venv/bin/python" -V) in .venv, packages as in requirements.lock"

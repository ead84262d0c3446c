# shellcheck shell=bash disable=SC2034
# Shared by setup.sh and install.sh, which source it. No output unless something is wrong.

say() { printf 'wqfs: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Python's own settings must not leak into what is built, and nothing here needs the user's packages.
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONHOME PYTHONPATH

# describe_python COMMAND: prints "STATE PATH" for a Python 3.11 or later, nothing for anything else.
# STATE is `whole` when it can make a virtual environment and has the headers that pyfuse3 compiles
# against, `debian` when Debian's packages can add what is missing, `partial` otherwise. PATH is the real
# interpreter, not a pyenv shim or the python of an active virtual environment, which may go away.
describe_python() {
    command -v "$1" >/dev/null 2>&1 || return 0
    "$1" - 2>/dev/null <<'PYTHON' || true
import importlib.util, os, sys, sysconfig
if sys.version_info >= (3, 11) and sys.implementation.name == "cpython":
    headers = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
    whole = headers and bool(importlib.util.find_spec("ensurepip")) and bool(importlib.util.find_spec("venv"))
    debian = sys.base_prefix == "/usr" and os.path.exists("/usr/bin/dpkg")
    print("whole" if whole else "debian" if debian else "partial", sys._base_executable)
PYTHON
}

# find_python CANDIDATE...: sets `python`, and `python_packages` to what Debian must add to it first.
find_python() {
    local candidate state path debian="" version
    python="" python_packages=""
    for candidate in "$@"; do
        read -r state path < <(describe_python "$candidate") || continue
        case $state in
            whole) python=$path; return ;;
            debian) debian=${debian:-$path} ;;
        esac
    done
    [ -n "$debian" ] || [ -z "${PYTHON:-}" ] ||
        die "PYTHON=$PYTHON is not a Python 3.11 or later with venv and headers (Python.h)"
    python=${debian:-/usr/bin/python3}
    if [ "$(readlink -f "$python")" = "$(readlink -f /usr/bin/python3)" ] || [ -z "$debian" ]; then
        python_packages="python3 python3-venv python3-dev"
    else
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        python_packages="$version $version-venv $version-dev"
    fi
}

# PYTHON= decides alone. Else the first in PATH, and Debian's last, for PATH may hide it.
python_candidates="${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3}"

has_header() { printf '#include <%s>\n' "$1" | cc -E - >/dev/null 2>&1; }

# PATH of a user's shell has no sbin on Debian, where mount.fuse3 is.
have() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

# missing_to_mount: prints the Debian packages for what is not there and is needed to mount, and to compile
# pyfuse3. It looks for the things themselves and not for the packages, so that it is right on other
# distributions too.
missing_to_mount() {
    have fusermount3 && have mount.fuse3 || echo fuse3
    have cc || echo gcc
    have cc && has_header stdio.h || echo libc6-dev
    have pkg-config || echo pkg-config
    have pkg-config && pkg-config --exists fuse3 || echo libfuse3-dev
}

# missing_packages: these, and what the tests, the demo and the examples need.
missing_packages() {
    missing_to_mount
    have mount || echo mount
    have findmnt || echo util-linux
    have pgrep || echo procps
    have jq || echo jq
    have xxd || echo xxd
    have busybox || echo busybox
    have less || echo less
    have groff || echo groff-base
    have man || echo man-db
    have zsh || echo zsh
    have fish || echo fish
    have keyctl || echo keyutils
    have strace || echo strace
    have pstree || echo psmisc
    have awk || echo mawk
    have sed || echo sed
    have grep || echo grep
    have timeout || echo coreutils
    # A container may have no systemd; only the slow tests read units with it.
    if [ -n "${WITH_SYSTEMD:-}" ]; then have systemd-analyze || echo systemd; fi
    # Nor container engines; debootstrap makes what an image begins with.
    if [ -n "${WITH_CONTAINERS:-}" ]; then
        have podman || echo podman
        have runc || echo runc
        have bwrap || echo bubblewrap
        have newuidmap || echo uidmap
        have debootstrap || echo debootstrap
    fi
    # What runs tests on another kernel, in software emulation.
    if [ -n "${WITH_KERNELS:-}" ]; then
        have qemu-system-x86_64 || echo qemu-system-x86
        have cpio || echo cpio
    fi
}

# install_packages PACKAGE...: with apt-get, as root or through sudo; sudo is used for nothing else.
install_packages() {
    [ $# -gt 0 ] || return 0
    local sudo=() how="install these packages as root and run this again: $*"
    command -v apt-get >/dev/null 2>&1 ||
        die "this is no Debian (no apt-get); install what these Debian packages hold, and run this again: $*"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || die "not root, and there is no sudo; $how"
        # Without a terminal sudo cannot ask for a password.
        if sudo -n true 2>/dev/null || [ -t 0 ]; then sudo=(sudo); else die "sudo needs a password; $how"; fi
    fi
    [ ${#sudo[@]} -eq 0 ] || sudo true || die "sudo was refused; $how"
    say "installing Debian packages${sudo:+ with sudo}: $*"
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the package lists that are there"
    "${apt[@]}" install --no-install-recommends "$@" >&2 || die "apt-get failed; $how"
}

#!/usr/bin/env bash
# install.sh install|uninstall PREFIX [DESTDIR]
#
#   PREFIX/lib/wqfs                   a virtual environment of its own: the wheel, and what
#                                     requirements-run.lock says; MANIFEST lists all that is elsewhere
#   PREFIX/bin/wqfs, mount_wqfs       the commands; they need neither PATH nor HOME, which mount(8) unsets
#   PREFIX/lib/systemd/system/*       the units, naming the installed command
#   PREFIX/libexec/wqfs-unit          what the units run before and after it
#   PREFIX/lib/sysusers.d, tmpfiles.d for a service user who is not root (an example until the user is made)
#   PREFIX/share/man/man*, PREFIX/include/wqfs.h, PREFIX/share/doc/wqfs
#
# A virtual environment holds its own path in few places (the commands' first lines, pyvenv.cfg, the file
# names in tracebacks), and those get the path without DESTDIR: so a tree made under DESTDIR works in
# PREFIX, and only there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh
umask 022

action=${1:-} prefix=${2:-} destdir=${3:-}
case $prefix$destdir in *[[:space:]]*) die "PREFIX and DESTDIR must be without blanks, for they end up after #!" ;; esac
case $prefix in /*) ;; *) die "expected an absolute PREFIX, not '$prefix'" ;; esac
case $destdir in "" | /*) ;; *) die "expected an absolute DESTDIR, not '$destdir'" ;; esac
prefix=${prefix%/} destdir=${destdir%/}
base=$destdir$prefix
home=$prefix/lib/wqfs
manifest=$destdir$home/MANIFEST

# Lines of the manifest: "d PATH" for a folder that was made, "f PATH" for a file, without DESTDIR. Each is
# written before the thing itself, so that what an interrupted install left can be removed too.
remove() {
    local kind path
    tac "$manifest" | while read -r kind path; do
        case $kind in
            f) rm -f "$destdir$path" ;;
            # The manifest goes with this one; it was read by then.
            v) if [ "$path" = "$home" ]; then rm -rf "$destdir$path"; fi ;;
            d) rmdir --ignore-fail-on-non-empty "$destdir$path" 2>/dev/null || true ;;
        esac
    done
}

make_folder() { # PATH, and its parents
    local path=$1
    [ -d "$destdir$path" ] && return
    [ -z "${path%/*}" ] || make_folder "${path%/*}"
    made+=("d $path")
    [ ! -e "$manifest" ] || echo "d $path" >>"$manifest"
    mkdir "$destdir$path"
}

put() { # MODE PATH: from standard input
    make_folder "${2%/*}"
    [ ! -e "$destdir$2" ] && [ ! -L "$destdir$2" ] ||
        die "$destdir$2 is there already and not from make install; remove it first"
    echo "f $2" >>"$manifest"
    cat >"$destdir$2"
    chmod "$1" "$destdir$2"
}

work="" unfinished=""
cleanup() {
    if [ -n "$work" ]; then rm -rf "$work"; fi
    if [ -n "$unfinished" ]; then
        remove
        say "not installed; what had been put under $base was removed again"
    fi
}

uninstall() {
    if [ ! -e "$manifest" ]; then
        say "nothing of make install under $base"
        return
    fi
    remove
    say "removed from $base"
}

install() {
    local path page section made=()
    path=$base
    while [ ! -e "$path" ] && [ -n "$path" ]; do path=${path%/*}; done
    [ -w "${path:-/}" ] || die "cannot write to ${path:-/}; run this as root, or choose another PREFIX="

    # The system's Python first: one in a home folder is not there for other users, nor at boot.
    # shellcheck disable=SC2086
    find_python ${PYTHON:-/usr/bin/python3 $python_candidates}
    read -r -a packages < <(echo "$python_packages" "$(missing_to_mount | tr '\n' ' ')") || true
    install_packages "${packages[@]}"
    case $(describe_python "$python") in
        whole\ *) ;;
        *) die "no Python 3.11 or later with venv and headers was found; install one, or name it with PYTHON=" ;;
    esac

    # All is built before anything is put in place.
    work=$(mktemp -d)
    trap cleanup EXIT
    say "building with $python"
    "$python" -m venv "$work/build"
    local pip=("$work/build/bin/python" -m pip -qq)
    export PYTHONDONTWRITEBYTECODE=1
    "${pip[@]}" install --no-deps --require-hashes --only-binary :all: -r requirements-build.lock
    "${pip[@]}" wheel --no-deps --require-hashes --no-build-isolation -w "$work/wheels" -r requirements-run.lock
    "${pip[@]}" wheel --no-deps --no-build-isolation -w "$work/wheels" .

    if [ -e "$manifest" ]; then remove; fi
    [ ! -e "$destdir$home" ] || die "$destdir$home is there already and not from make install; remove it first"
    if [ -n "$destdir" ]; then mkdir -p "$destdir"; fi
    make_folder "$prefix/lib"
    mkdir "$destdir$home"
    printf '%s\n' "${made[@]}" "v $home" | grep . >"$manifest"
    unfinished=yes

    "$python" -m venv --without-pip "$destdir$home"
    "${pip[@]}" --python "$destdir$home/bin/python" install --no-deps --no-index --no-compile "$work"/wheels/*.whl
    "$destdir$home/bin/python" -m compileall -q ${destdir:+-s "$destdir"} "$destdir$home"/lib
    # Only the commands of ours; and what pip wrote into share/ is put in its place below.
    rm -rf "$destdir$home/share"
    find "$destdir$home/bin" -mindepth 1 ! -name 'python*' ! -name wqfs -delete
    { echo "#!$home/bin/python"; sed '1{/^#!/d}' mount_wqfs.py; } >"$destdir$home/bin/mount_wqfs"
    chmod 755 "$destdir$home/bin/mount_wqfs"
    if [ -n "$destdir" ]; then
        sed -i "1s|^#!$destdir|#!|" "$destdir$home"/bin/wqfs
        sed -i "s|$destdir||g" "$destdir$home"/pyvenv.cfg
    fi

    for path in wqfs mount_wqfs; do
        put 755 "$prefix/bin/$path" </dev/null
        ln -sf "../lib/wqfs/bin/$path" "$base/bin/$path"
    done
    for path in systemd/*.service; do
        sed "s|@BINDIR@|$prefix/bin|g; s|@LIBEXECDIR@|$prefix/libexec|g" "$path" |
            put 644 "$prefix/lib/systemd/system/${path##*/}"
    done
    put 755 "$prefix/libexec/wqfs-unit" <systemd/wqfs-unit
    put 644 "$prefix/lib/sysusers.d/wqfs.conf" <systemd/wqfs.sysusers.conf
    put 644 "$prefix/lib/tmpfiles.d/wqfs.conf.example" <systemd/wqfs.tmpfiles.conf
    put 644 "$prefix/share/doc/wqfs/wqfs-user.conf" <systemd/wqfs-user.conf
    for page in docs/man/*.[1-9]; do
        section=${page##*.}
        put 644 "$prefix/share/man/man$section/${page##*/}" <"$page"
    done
    put 644 "$prefix/share/bash-completion/completions/wqfs" <docs/completion/wqfs.bash
    put 644 "$prefix/share/zsh/site-functions/_wqfs" <docs/completion/_wqfs
    put 644 "$prefix/share/fish/vendor_completions.d/wqfs.fish" <docs/completion/wqfs.fish
    put 644 "$prefix/include/wqfs.h" <wqfs/abi/wqfs.h
    put 644 "$prefix/share/doc/wqfs/LICENSE" <LICENSE
    unfinished=""
    say "installed under $base; to remove it: make uninstall PREFIX=$prefix${destdir:+ DESTDIR=$destdir}"
    if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
        say "for the units: systemctl daemon-reload, then e.g. systemctl start wqfs@\$(systemd-escape --path /mnt/wqfs)"
    fi
}

case $action in
    install | uninstall) "$action" ;;
    *) die "usage: install.sh install|uninstall PREFIX [DESTDIR]" ;;
esac

#!/usr/bin/env bash
# `make run`: mounts at $MOUNTPOINT in the foreground until Ctrl-C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mountpoint=${MOUNTPOINT:-$HOME/wqfs}
# A clone at ~/wqfs cannot be mounted over: it holds the program.
case $PWD/ in "$HOME/wqfs"/*) if [ "$mountpoint" = "$HOME/wqfs" ]; then mountpoint=$HOME/wqfs-mount; fi ;; esac
# Only bash's own `make MOUNTPOINT=~/x` comes expanded.
# shellcheck disable=SC2088
case $mountpoint in "~" | "~/"*) mountpoint=$HOME${mountpoint#"~"} ;; esac
# No look at a folder that exists: a dead mount there would fail it, and mount_wqfs.py clears one.
mkdir -p "$mountpoint" 2>/dev/null || true

real=$(realpath -m "$mountpoint")
told() {
    cat <<END

wqfs is mounted at $real. Ctrl-C here unmounts it. In a second terminal:

    cd $(printf %q "$real")
    mkdir watches/w                      # a watch; this one sees everything
    cat watches/w/events &               # its events as JSON lines, from now on
    echo 'mount /dev/sdb1 /mnt/data -t ext4 -o ro' > post
    echo 'sb error /mnt/data EIO' > post
    echo 'key add user colour red @s' > post
    timeout 1 cat watches/w/queue | xxd  # the same events as the kernel's records
    rmdir watches/w                      # hangs it up: cat ends

END
}
# Said once it is true; what goes wrong before has the last word instead.
mounted() { awk -v at="$real" '{ gsub(/\\040/, " ", $5) } $5 == at && / - fuse\.wqfs / { found = 1 } END { exit !found }' /proc/self/mountinfo; }
if ! mounted; then
    (for _ in $(seq 100); do
        if mounted; then told; break; fi
        kill -0 $$ 2>/dev/null || break
        sleep 0.1
    done) &
fi
exec .venv/bin/python scripts/run.py .venv/bin/python mount_wqfs.py "$mountpoint" -f ${OPTIONS:+-o "$OPTIONS"}

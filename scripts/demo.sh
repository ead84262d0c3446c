#!/usr/bin/env bash
# `make demo`: mounts in a temporary folder, ships mount, superblock and keyring events, reads them back
# with ordinary tools, unmounts. Each command is shown before its real output; one whose output lacks what
# it should show ends the demo with 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
root=$PWD
folder=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/wqfs-demo.XXXXXX")")

cleanup() {
    cd "$root" || exit
    exec 3<&- # a watch's file held open here would keep the mount busy
    if mounted; then
        fusermount3 -u "$folder" 2>/dev/null || fusermount3 -uz "$folder"
    fi
    rmdir "$folder" 2>/dev/null
}
mounted() { grep -qF " $folder " /proc/self/mountinfo; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    printf 'demo: %s\n' "$*" >&2
    if [ -s errors ]; then sed 's/^/demo: errors: /' errors >&2; fi
    exit 1
}

# show COMMAND [PATTERN...]: the command as typed, its output, and each pattern that must be in it. The
# command runs in this shell, so that it can cd and open files; nothing waits longer than its `timeout`.
show() {
    local command=$1 output status pattern
    shift
    printf '$ %s\n' "$command"
    output=$(mktemp "${TMPDIR:-/tmp}/wqfs-demo-out.XXXXXX")
    eval "$command" >"$output" 2>&1
    status=$?
    cat "$output"
    for pattern in "$@"; do
        grep -qE -- "$pattern" "$output" || { rm -f "$output"; fail "no line with '$pattern' came"; }
    done
    rm -f "$output"
    [ "$status" -eq 0 ] || fail "the command ended with $status"
}
note() { printf '\n# %s\n' "$*"; }

note "Mount. No root, no kernel support."
printf '$ python3 mount_wqfs.py %s\n' "$folder"
"$root/.venv/bin/python" mount_wqfs.py "$folder" || fail "the mount command ended with $?"
mounted || fail "the mount command ended, but nothing is mounted"
show "cd $folder"
show "ls" '^post$' '^watches$'

note "A watch, and a reader of its events from now on."
show "mkdir watches/demo"
show "exec 3< watches/demo/events"

note "Things happen in the simulated system."
show "echo 'mount /dev/sdb1 /mnt/data -t ext4 -o ro' > post"
show "echo 'sb error /mnt/data EIO' > post"
show "echo 'key add user colour red @s' > post"
show "echo 'key update colour blue' > post"
show "cat sim/mountinfo" '/mnt/data .* ext4 /dev/sdb1 '
show "echo 'umount /mnt/data' > post"

note "The events as the kernel's records: one read takes as many as fit."
show "timeout 5 dd if=watches/demo/queue bs=4096 count=1 status=none | xxd -c 24" '^00000000: ' '^00000018: '

note "The same in the log, as text."
show "cat watches/demo/log" '"event":"new_mount"' '"event":"error"' '"event":"updated"' '"event":"unmount"'
show "jq -c 'select(.type == \"sb\") | [.seq, .event, .error, .mountpoint]' watches/demo/log" '"error","EIO"'

note "A wrong command is refused, and errors says why."
show "echo 'sb error / EWHAT' > post || cat errors" 'EWHAT'

note "Removing the watch ends its readers; what they have not read yet they still get."
show "rmdir watches/demo"
show "timeout 5 jq -r '[.seq, .type, .event] | @tsv' <&3" 'new_mount$' 'error$' 'updated$' 'unmount$'
show "cd /"
exec 3<&-
printf '$ fusermount3 -u %s\n' "$folder"
fusermount3 -u "$folder" || fail "fusermount3 ended with $?"
! mounted || fail "still mounted"

#!/bin/bash
# Records cases of key requests on the reference kernel: VM_DIR=FOLDER ./run_recorder.sh CASES ANSWERS
# (absolute paths). The kernel starts /sbin/request-key in its own root, which is the initramfs, not in the host's
# files where the script runs: so a stub there enters them.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
script="$(mktemp)"
trap 'rm -f "$script"' EXIT
cat > "$script" <<END
echo GUEST-START
mkdir -p /proc/1/root/sbin
cat > /proc/1/root/sbin/request-key <<'STUB'
#!/bin/busybox sh
exec /bin/busybox chroot /host /usr/bin/python3 '$here/request_key_helper.py' "\$@"
STUB
chmod 755 /proc/1/root/sbin/request-key
/usr/bin/python3 '$here/record_requests.py' '$1' '$2'
echo GUEST-END
END
"$here/run_vm.sh" "$script"

#!/bin/bash
# Writes FOLDER/initramfs.gz: loads MODULE... in this order, shares the host's root over 9p, and runs one script in a
# chroot of it. Usage: initramfs.sh FOLDER [MODULE.ko...]
set -euo pipefail
folder=$1
shift
root=$folder/initramfs
rm -rf "$root"
mkdir -p "$root"/{bin,dev,proc,host,modules}
busybox=$(command -v busybox)
cp "$busybox" "$root/bin/busybox"
for library in $({ ldd "$busybox" || :; } 2>/dev/null | grep -o '/[^ ]*'); do # none of a static one
    install -D "$library" "$root$library"
done
number=100
for module in "$@"; do cp "$module" "$root/modules/$((number++)).ko"; done
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
B=/bin/busybox
for module in /modules/*.ko; do if [ -e "$module" ]; then $B insmod "$module"; fi; done
$B mount -t devtmpfs dev /dev; $B mount -t proc proc /proc
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose host /host
$B mount -t proc proc /host/proc; $B mount -t sysfs sys /host/sys; $B mount -t devtmpfs dev /host/dev
for a in $($B cat /proc/cmdline); do case $a in guest.script=*) S=${a#guest.script=};; esac; done
$B chroot /host /bin/bash "$S"
$B poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc 2>/dev/null | gzip -1 >"$folder/initramfs.gz")

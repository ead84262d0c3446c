#!/bin/sh
# root.sh FOLDER TREE: process 1 of a machine of its own; tests/booted starts it in new namespaces.
#
# It makes a root of this machine's files with TREE (of `make install DESTDIR=TREE`) over them, all that is written
# to it in memory, goes into it, and becomes systemd. FOLDER: `work` to mount on, `console` and `notify`, a socket;
# `pid` is written. Each step that the surroundings may refuse says so and ends with 77: a test skips then.
set -eu
folder=$1 tree=$2
step="a proc filesystem of the test's own"
trap '[ $? -eq 0 ] || { echo "refused here: $step" >&2; exit 77; }' EXIT

read -r pid _ </proc/self/stat # the old /proc is of the tests' namespace
echo "$pid" >"$folder/pid"

step="a tmpfs"
work=$folder/work
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
cp -a "$tree/." "$work/upper/"
chmod 755 "$work/upper" # TREE may be a private folder
step="an overlay over the root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
cd "$work/root"

# As a container manager leaves it: what belongs to the kernel can be read and not written.
step="proc, sysfs and cgroup2"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
step="devices"
mount -t tmpfs -o mode=755 tmpfs dev
while read -r name major minor; do
    mknod -m 666 "dev/$name" c "$major" "$minor" # fuse too, as udev's rules have it on Debian
done <<DEVICES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
autofs 10 235
DEVICES
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
: >dev/console
mount --bind "$folder/console" dev/console
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/host run/old
: >run/host/notify
mount --bind "$folder/notify" run/host/notify

# Nothing of this machine's own services, and nothing that looks after hardware.
step="the new root's files"
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires
for each in multi-user timers paths; do rm -rf "usr/lib/systemd/system/$each.target.wants"; done
for each in systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service podman.socket \
    dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount; do
    ln -sf /dev/null "etc/systemd/system/$each"
done
: >etc/fstab
[ -s etc/machine-id ] || tr -d - <proc/sys/kernel/random/uuid >etc/machine-id # no first boot, which may ask things
if [ -e "$folder/prepare" ]; then sh -eu "$folder/prepare"; fi

step="pivot_root"
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
systemd=/usr/lib/systemd/systemd
[ -x $systemd ] || systemd=/lib/systemd/systemd
step="systemd itself"
[ -x $systemd ]
trap - EXIT
exec env -i container=wqfs-test NOTIFY_SOCKET=/run/host/notify LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin $systemd --unit=multi-user.target

#!/bin/bash
# Fetches Debian's own kernel, 6.1 of Debian 12, for run_vm.sh: one that cannot send FUSE requests again.
# Usage: VM_DIR=<empty folder> ./debian_vm.sh     (70 MB)
set -euo pipefail
: "${VM_DIR:?a folder to put it in}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2 }')
mkdir -p "$VM_DIR/package"
cd "$VM_DIR/package"
apt-get -qq download "$package"
dpkg-deb -x "$package"_*.deb .
cp boot/vmlinuz-* ../vmlinuz
modules=(lib/modules/*/kernel)
# What insmod needs before each, by hand: virtio's transport, 9p, FUSE.
"$here/initramfs.sh" "$VM_DIR" \
    "$modules"/drivers/virtio/{virtio_ring,virtio,virtio_pci_modern_dev,virtio_pci_legacy_dev,virtio_pci}.ko \
    "$modules"/fs/{netfs/netfs,fscache/fscache}.ko "$modules"/net/9p/{9pnet,9pnet_virtio}.ko \
    "$modules"/fs/{9p/9p,fuse/fuse}.ko
echo "$package in $VM_DIR"

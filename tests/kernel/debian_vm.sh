#!/bin/bash
# Fetches Debian's own kernel, 6.1 of Debian 12, for run_vm.sh: one that cannot send FUSE requests again.
# Usage: VM_DIR=<empty folder> ./debian_vm.sh     (70 MB). Ends with 77 where no such kernel is to be had.
set -euo pipefail
: "${VM_DIR:?a folder to put it in}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
package=$(apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image/ { print $2 }')
case $package in
    linux-image-[1-5].* | linux-image-6.[0-8].*) ;;
    *) echo "Debian's kernel here is '$package', not one before 6.9 (is apt-get update due?)" && exit 77 ;;
esac
mkdir -p "$VM_DIR/package"
cd "$VM_DIR/package"
timeout 300 apt-get -qq download "$package" || { echo "$package cannot be fetched" && exit 77; }
dpkg-deb -x "$package"_*.deb .
cp boot/vmlinuz-* ../vmlinuz
modules=(lib/modules/*/kernel)
# What insmod needs before each, by hand: virtio's transport, 9p, FUSE.
"$here/initramfs.sh" "$VM_DIR" \
    "$modules"/drivers/virtio/{virtio_ring,virtio,virtio_pci_modern_dev,virtio_pci_legacy_dev,virtio_pci}.ko \
    "$modules"/fs/{netfs/netfs,fscache/fscache}.ko "$modules"/net/9p/{9pnet,9pnet_virtio}.ko \
    "$modules"/fs/{9p/9p,fuse/fuse}.ko
echo "$package in $VM_DIR"

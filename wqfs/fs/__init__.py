"""The filesystem: all that talks to the kernel.

How a request flows:

    kernel <-> /dev/fuse <-> device <-> channel -- READ WRITE POLL IOCTL INTERRUPT RELEASE -> handles
                               |
                               +-- everything else -- SOCK_SEQPACKET --> pyfuse3 -> names -> nodes

device    the loop that moves messages; the only reader of /dev/fuse
channel   which message goes where, who waits, who is woken: bytes in, bytes out
handles   open files: queue, events, log, text, the files that take lines
nodes     the tree: which file has which number, mode, and opener
names     pyfuse3's Operations over nodes
filesystem  everything that one mount is made of
mounting  fusermount3; options of the mount command
daemon    the process: background, signals, end
caller    reading the memory of who calls an ioctl
"""

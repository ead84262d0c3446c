"""The FUSE messages that the channel speaks itself (linux/fuse.h, protocol 7.31 and later).

A request is struct fuse_in_header, 40 bytes, and a body by opcode:

    0 u32 len   4 u32 opcode   8 u64 unique   16 u64 nodeid   24 u32 uid   28 u32 gid   32 u32 pid
    36 u16 total_extlen   38 u16 padding

A reply is struct fuse_out_header, 16 bytes, and a body if error is 0:

    0 u32 len   4 s32 error   8 u64 unique

The body structures below leave out (`x`) what the channel does not look at.
"""

from __future__ import annotations

import struct
from typing import Final

# Opcodes and notify codes.
FORGET: Final = 2
SETATTR: Final = 4
MKDIR: Final = 9
RMDIR: Final = 11
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
RELEASE: Final = 18
INIT: Final = 26
INTERRUPT: Final = 36
IOCTL: Final = 39
POLL: Final = 40
NOTIFY_REPLY: Final = 41
BATCH_FORGET: Final = 42
NOTIFY_POLL: Final = 1
NOTIFY_RESEND: Final = 7

IN_HEADER: Final = struct.Struct("=IIQQIIIHH")
assert IN_HEADER.size == 40
OUT_HEADER: Final = struct.Struct("=IiQ")
assert OUT_HEADER.size == 16

START: Final = struct.Struct("=IIQ")
"""len, opcode, unique: the first 16 bytes of a request."""
CALLER: Final = struct.Struct("=24xIII")
"""uid, gid, pid out of a request's header."""

# Each from a request's first byte on and with its unique first, so that one unpack does.
READ_IN: Final = struct.Struct("=8xQ24xQQII8xI4x")
"""unique; fh, offset, size, read_flags, flags (struct fuse_read_in)."""
WRITE_IN: Final = struct.Struct("=8xQ24xQQI20x")
"""unique; fh, offset, size (struct fuse_write_in); the data follow at byte 80."""
RELEASE_IN: Final = struct.Struct("=8xQ24xQ16x")
"""unique; fh (struct fuse_release_in)."""
INTERRUPT_IN: Final = struct.Struct("=40xQ")
"""unique of the request to interrupt (struct fuse_interrupt_in)."""
IOCTL_IN: Final = struct.Struct("=8xQ24xQIIQI4x")
"""unique; fh, flags, cmd, arg, in_size (struct fuse_ioctl_in); the data follow at byte 72."""
POLL_IN: Final = struct.Struct("=8xQ24xQQI4x")
"""unique; fh, kh, flags (struct fuse_poll_in)."""
assert [s.size for s in (READ_IN, WRITE_IN, RELEASE_IN, IOCTL_IN, POLL_IN)] == [80, 80, 64, 72, 64]

# Replies, header included.
WRITE_OUT: Final = struct.Struct("=IiQI4x")
IOCTL_OUT: Final = struct.Struct("=IiQiIII")  # result, flags, in_iovs, out_iovs
POLL_OUT: Final = struct.Struct("=IiQI4x")  # revents
OPEN_OUT: Final = struct.Struct("=IiQQI4x")  # fh, open_flags
NOTIFY_POLL_OUT: Final = struct.Struct("=IiQQ")  # kh
INIT_IN_FLAGS2: Final = struct.Struct("=56xI")
"""flags2 (struct fuse_init_in), from a request's first byte."""
INIT_OUT: Final = struct.Struct("=IIIIHHIIHHII")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
max_pages, map_alignment, flags2, max_stack_depth (struct fuse_init_out without its unused end)."""
assert (WRITE_OUT.size, IOCTL_OUT.size, POLL_OUT.size, OPEN_OUT.size) == (24, 32, 24, 32)

FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5

FUSE_READ_LOCKOWNER: Final = 1 << 1
"""Set on every direct read; clear on those that splice and sendfile make through the page cache."""
FUSE_IOCTL_DIR: Final = 1 << 4
FUSE_POLL_SCHEDULE_NOTIFY: Final = 1 << 0
FUSE_MAX_PAGES: Final = 1 << 22
FUSE_HAS_RESEND: Final = 1 << 39 - 32
"""In flags2 of INIT: the kernel can send again what was not answered (Linux 6.9)."""
FUSE_UNIQUE_RESEND: Final = 1 << 63
"""Set in `unique` of a request that was sent before."""

"""Sizes that the channel negotiates with the kernel in INIT."""

from __future__ import annotations

from typing import Final

MAX_WRITE: Final = 128 * 1024
"""Bytes of one WRITE and of one READ; larger calls come in pieces. A message of this size with its
header still fits a SOCK_SEQPACKET socket of the default size."""
MAX_PAGES: Final = MAX_WRITE // 4096 + 1
"""One more than MAX_WRITE fills: a caller's buffer that begins within a page touches that many, and
would otherwise arrive in pieces of no known size."""
BUFFER_SIZE: Final = MAX_WRITE + 4096
"""What any request fits in: a WRITE's data and a page for headers. As large as libfuse's."""

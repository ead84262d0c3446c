"""Events of poll(2) in the pairs in which the kernel always gives them."""

from __future__ import annotations

from select import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from typing import Final

READABLE: Final = POLLIN | POLLRDNORM
WRITABLE: Final = POLLOUT | POLLWRNORM

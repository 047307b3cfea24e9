"""Chunks of parts, 40 bytes each: the time of the write, the number in the part, and bytes that are always the same."""

from __future__ import annotations

import time
from typing import Final

CHUNK_BYTES: Final = 40


def chunk(n: int) -> bytes:
    """Chunk `n` of its part, counted from 0, written now by the clock that all processes of this machine share.

    It needs no escape in JSON. The load generator checks every byte of it (`native/loadgen.c`).
    """
    return b"t.%016d.%08d.abcdefghijkl" % (time.monotonic_ns() // 1000, n)

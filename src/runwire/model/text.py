"""UTF-8 that arrives in pieces. Pure."""

from __future__ import annotations


def whole_characters(data: bytes, *, last: bool = False) -> bytes:
    """The bytes without the beginning of a character at their end. With `last` nothing follows: all of them.

    Bytes that are not UTF-8 count as whole.
    """
    if last:
        return data
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            return data
        if byte >= 0xC0:  # a character begins here: 2 bytes from C0, 3 from E0, 4 from F0
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data if back >= length else data[:-back]
    return data

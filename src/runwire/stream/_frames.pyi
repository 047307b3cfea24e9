from collections.abc import Sequence

from runwire.model.event import StoredEvent

# The frames of the events, one after the other: `head` is what the JSON of each begins with, up to the seq; `tail` what
# comes between its type and its name or fn. Raises ValueError for what is not ASCII, OverflowError for what is no
# 64 bit integer, and TypeError.
def frames(head: bytes, tail: bytes, events: Sequence[StoredEvent], /) -> bytes: ...

# Pieces joined into one chunk of HTTP/1.1's chunked transfer coding. Raises TypeError.
def joined(pieces: Sequence[bytes], /) -> bytes: ...

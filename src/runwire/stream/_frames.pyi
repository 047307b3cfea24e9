from collections.abc import Sequence

from runwire.model.event import StoredEvent

# A frame for each event: `head` is what its JSON begins with, up to the seq; `tail` what comes between its type and its
# name or fn. Raises ValueError for what is not ASCII, OverflowError for what is no 64 bit integer, and TypeError.
def frames(head: bytes, tail: bytes, events: Sequence[StoredEvent], /) -> list[bytes]: ...

# Frames joined into one chunk of HTTP/1.1's chunked transfer coding. Raises TypeError.
def joined(frames: Sequence[bytes], /) -> bytes: ...

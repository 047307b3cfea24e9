from collections.abc import Sequence

from runwire.model.event import StoredEvent

# The frames of the events, joined. `head` begins the JSON of each event, up to the seq; `tail` comes between its type
# and its name or fn. Raises ValueError for text that is not ASCII, OverflowError for a number beyond 64 bits, and
# TypeError.
def frames(head: bytes, tail: bytes, events: Sequence[StoredEvent], /) -> bytes: ...

# The pieces joined into one chunk of HTTP/1.1's chunked transfer coding. Raises TypeError.
def joined(pieces: Sequence[bytes], /) -> bytes: ...

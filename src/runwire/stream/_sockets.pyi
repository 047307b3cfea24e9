from typing import Any, Final, final

# A connection to send to, by a descriptor of its own, which is closed with the last reference: the connection stays
# open for as long. Raises OSError where `descriptor` is no socket, or three quarters of the descriptors are taken: the
# rest are for connections, which go without.
@final
class Socket:
    def __new__(cls, descriptor: int, /) -> Socket: ...
    # Itself. One that did not take all of a piece takes nothing of what follows, until it is opened again: when the
    # rest is with it, and all that was started meanwhile is finished and with it, too.
    def reopen(self) -> Socket: ...

# Pieces, each for some connections, to be sent in one go. Holds on to all it was given until that is over.
@final
class Batch:
    def __new__(cls) -> Batch: ...
    # Has the piece sent to the sockets of `clients`, whose are `whose`. Raises TypeError, with nothing added, and
    # RuntimeError when it was sent or started.
    def add(self, whose: object, piece: bytes, clients: dict[Any, Socket], /) -> None: ...
    # How many sends it has.
    def __len__(self) -> int: ...
    # Sends without waiting, what is for one socket in the order it was added. Returns who did not take all of a piece:
    # whose, the client, and the rest; all of it after an error, too, which the next who writes there meets. Raises
    # RuntimeError when it was sent or started, and MemoryError when it cannot tell: then the connections of those who
    # did not take all have been ended.
    def send(self) -> list[tuple[Any, Any, bytes]]: ...

# How much may be under way with a Sender.
JOBS: Final[int]

# Threads that send without holding the interpreter: for each socket one batch after the other. Raises OSError where
# there can be none. One thread at a time may call it.
@final
class Sender:
    def __new__(cls) -> Sender: ...
    # Returns at once. Raises RuntimeError while JOBS are not finished, for a batch that was sent, and when closed.
    def start(self, batch: Batch, /) -> None: ...
    # How often `finish` would return without waiting.
    def sent(self) -> int: ...
    # What `send` would have returned, of what was started first; waits for it. Raises RuntimeError when there is
    # nothing.
    def finish(self) -> list[tuple[Any, Any, bytes]]: ...
    # A descriptor that is readable when something was sent since `sent` was called last.
    def fileno(self) -> int: ...
    # Waits for the threads, which end what they are at. What else was started is not sent, and told to nobody.
    def close(self) -> None: ...

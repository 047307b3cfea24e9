from typing import Any, Final, final

# Only the thread of the event loop calls anything here; _sockets.c says which thread owns what.

# A connection to send to, by a duplicate of `descriptor`. The duplicate is closed with the last reference, and keeps
# the connection open until then. Raises OSError where `descriptor` is no socket, and when three quarters of the
# descriptors are in use: the rest are for connections, which can do without a Socket.
@final
class Socket:
    def __new__(cls, descriptor: int, /) -> Socket: ...
    # Lets the socket take pieces again, and returns it. After a short send a socket takes nothing. Reopen it when the
    # transport has sent the remainder and no batch that was started meanwhile is under way.
    def reopen(self) -> Socket: ...

# Pieces, each for some connections, to be sent in one go. Keeps everything it was given alive until it is over.
@final
class Batch:
    def __new__(cls) -> Batch: ...
    # Adds a send of the piece to the socket of each client of `whose`. Raises TypeError, with nothing added, and
    # RuntimeError for a batch that was sent or started.
    def add(self, whose: object, piece: bytes, clients: dict[Any, Socket], /) -> None: ...
    # The number of sends.
    def __len__(self) -> int: ...
    # Sends without waiting; sends to one socket keep their order. Returns the short sends: whose, the client, and the
    # rest of the piece, which is all of it after an error: the next writer meets the error again. Raises RuntimeError
    # for a batch that was sent or started, and MemoryError when the list does not fit into memory: the connections with
    # short sends are ended then.
    def send(self) -> list[tuple[Any, Any, bytes]]: ...

# How many batches a Sender may have under way.
JOBS: Final[int]

# Threads that send without the interpreter's lock; each socket gets one batch after the other. Raises OSError where no
# thread can be started.
@final
class Sender:
    def __new__(cls) -> Sender: ...
    # Hands the batch to the threads and returns at once. Raises RuntimeError while JOBS batches are not finished, for a
    # batch that was sent or started, and after `close`.
    def start(self, batch: Batch, /) -> None: ...
    # The number of batches that `finish` need not wait for.
    def sent(self) -> int: ...
    # Waits for the batch that was started first, and returns what its `send` would have. Raises RuntimeError when no
    # batch was started.
    def finish(self) -> list[tuple[Any, Any, bytes]]: ...
    # A descriptor that is readable when a batch was sent since the last call of `sent`.
    def fileno(self) -> int: ...
    # Waits until the threads have sent what they are sending, and ends them. Batches that wait are dropped unsent.
    def close(self) -> None: ...

from typing import Any, Final, TypeVar, final

_C = TypeVar("_C")

# A connection to send to, by a descriptor of its own, which is closed with the last reference: the connection stays
# open for as long. Raises OSError where `descriptor` is no socket, or three quarters of the descriptors are taken: the
# rest are for connections, which go without.
@final
class Socket:
    def __new__(cls, descriptor: int, /) -> Socket: ...
    # Itself. One that did not take all of a piece takes nothing of what follows, until it is opened again: when the
    # rest is with it, and all that was started meanwhile is finished and with it, too.
    def reopen(self) -> Socket: ...

# Sends each piece to the sockets of all clients at its place, in order and without waiting. Returns who did not take
# all of its piece: the piece's place, the client, and how many bytes it took; 0 after an error, too, which the next who
# writes there meets. Raises TypeError, with nothing sent.
def send_each(pieces: list[bytes], clients: list[dict[_C, Socket]], /) -> list[tuple[int, _C, int]]: ...

# How much may be under way with a Sender.
JOBS: Final[int]

# A thread that does the same without holding the interpreter, one job after the other. Raises OSError where there can
# be none. One thread at a time may call it.
@final
class Sender:
    def __new__(cls) -> Sender: ...
    # Returns at once. Raises RuntimeError while JOBS are not finished, and when closed.
    def start(self, pieces: list[bytes], clients: list[dict[_C, Socket]], /) -> None: ...
    # How often `finish` would return without waiting.
    def sent(self) -> int: ...
    # What `send_each` would have returned, of what was started first; waits for it. Raises RuntimeError when there is
    # nothing.
    def finish(self) -> list[tuple[int, Any, int]]: ...
    # A descriptor that is readable when something was sent since `sent` was called last.
    def fileno(self) -> int: ...
    # Waits for the thread, which ends what it is at. What else was started is not sent, and told to nobody.
    def close(self) -> None: ...

"""The followers of a run, and where each one stands with the piece that is being written. Pure: writes nothing.

The states of a follower. The session owns a client outside of them; `wake` tells the session that the client is back.

    session --join, cursor = sent--> CURRENT --a piece begins--> DUE --its slot: written--> CURRENT
    session --join, cursor > sent--> AHEAD

    CURRENT --leave, the run ends, too much is pending-----> session, cursor = sent

    DUE -----leave, or the connection refuses the piece----> session, cursor = before the piece

    AHEAD ---leave, or `sent` reaches the cursor, the end--> session, cursor as it was

A client AHEAD heard of an event before a crash which the publisher has yet to repeat.

CURRENT and DUE followers each have a way to be written to. A client that joins starts with its transport, because
its session may have left bytes there.

    TRANSPORT --nothing buffered, and there is a socket--> SOCKET
    SOCKET --the socket fell short, or the session wrote a heartbeat--> TRANSPORT
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from runwire.stream.fanout.outlet import Outlet, Socket


class Follower(Protocol):
    """A client at the tail of a run."""

    cursor: int

    @property
    def outlet(self) -> Outlet: ...

    def wake(self) -> None:
        """The client is no follower any more, and its cursor is set: its session goes on."""


class Standing(Enum):
    """Where a follower stands."""

    CURRENT = "current"
    DUE = "due"
    AHEAD = "ahead"


class Followers:
    """The followers of one run, by where they stand. Others read the attributes, and only the methods change them.

    A follower has no attribute for its state: a change touches one dictionary, not the memory of every client.
    """

    __slots__ = ("ahead", "by_transport", "current", "due")

    def __init__(self) -> None:
        self.current: dict[Follower, Socket | None] = {}
        """Each with its socket, or with None, which means the transport."""
        self.due: dict[Follower, Socket | None] = {}
        self.ahead: dict[Follower, None] = {}
        self.by_transport = 0
        """The number of current and due followers that go by their transports."""

    # ------------------------------------------------------------------ coming and going

    def join(self, client: Follower, *, ahead: bool) -> None:
        if ahead:
            self.ahead[client] = None
        else:
            self.current[client] = None
            self.by_transport += 1

    def leave(self, client: Follower) -> Standing | None:
        """Forgets a client, and says where it stood; None for one that is no follower."""
        if client in self.current:
            self.by_transport -= self.current.pop(client) is None
            return Standing.CURRENT
        if client in self.due:
            self.by_transport -= self.due.pop(client) is None
            return Standing.DUE
        if client in self.ahead:
            del self.ahead[client]
            return Standing.AHEAD
        return None

    # ------------------------------------------------------------------ a piece

    def begin(self) -> None:
        """A piece begins: everybody current is due."""
        self.current, self.due = self.due, self.current

    def take(self, slots: int, *, by_transport: int) -> tuple[dict[Follower, Socket | None], int]:
        """Takes due followers out for as many slots, and says how many slots are left over.

        One by its socket uses one slot, one by its transport uses `by_transport`. Return them with `written`.
        """
        if self.by_transport or len(self.due) > slots:
            taken: dict[Follower, Socket | None] = {}
            while self.due and slots > 0:
                client, socket = self.due.popitem()
                taken[client] = socket
                slots -= 1 if socket is not None else by_transport
            return taken, slots
        taken, self.due = self.due, {}
        return taken, slots - len(taken)

    def written(self, taken: dict[Follower, Socket | None]) -> None:
        """The piece was written to these: they are current."""
        if self.current:
            self.current |= taken
        else:
            self.current = taken

    def refused(self, client: Follower, taken: dict[Follower, Socket | None]) -> None:
        """Forgets a client that was taken out and cannot be written to."""
        self.by_transport -= taken.pop(client) is None

    def to_socket(self, client: Follower, socket: Socket, taken: dict[Follower, Socket | None]) -> None:
        """From here on a client that was taken out goes by its socket."""
        taken[client] = socket
        self.by_transport -= 1

    def to_transport(self, client: Follower) -> None:
        """From here on a follower goes by its transport."""
        for clients in (self.current, self.due):
            if client in clients and clients[client] is not None:
                clients[client] = None
                self.by_transport += 1

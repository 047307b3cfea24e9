"""The state machine of a follower: whatever happens to clients, each stands in one place and goes one way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from runwire.stream.fanout.followers import Followers, Standing
from runwire.stream.fanout.outlet import Outlet

SOCKET = cast("Any", object())
BY_TRANSPORT = 4

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "ahead", "leave", "piece", "piece", "to transport", "wait"]),
        st.integers(0, 9),
        st.integers(1, 12),
    ),
    min_size=20,  # else they are some five long, mostly
    max_size=60,
)


@dataclass(eq=False)
class Client:
    """`by_socket` is what the model says of it."""

    cursor: int
    standing: Standing | None = None
    by_socket: bool = False
    outlet: Outlet = field(default_factory=lambda: Outlet(lambda _data: None, lambda: 0, lambda: False))

    def wake(self) -> None:
        raise AssertionError("only the fan-out wakes")


@given(STEPS)
def test_every_client_stands_in_one_place_and_goes_one_way(steps: list[tuple[str, int, int]]) -> None:
    followers = Followers()
    clients = [Client(cursor) for cursor in range(10)]
    for what, n, slots in steps:
        client = clients[n]
        if what == "join" and client.standing is None:
            followers.join(client, ahead=False)
            client.standing, client.by_socket = Standing.CURRENT, False
        elif what == "ahead" and client.standing is None:
            followers.join(client, ahead=True)
            client.standing = Standing.AHEAD
        elif what == "leave":
            assert followers.leave(client) is client.standing
            client.standing = None
        elif what == "to transport":
            followers.to_transport(client)
            client.by_socket = False
        elif what == "piece":
            if not followers.due:
                followers.begin()
                for each in clients:
                    if each.standing is Standing.CURRENT:
                        each.standing = Standing.DUE
            write(followers, clients, slots, refused=n)
        check(followers, clients)


def write(followers: Followers, clients: list[Client], slots: int, *, refused: int) -> None:
    """Gives out slots. One client refuses the piece, and those by transports get to their sockets."""
    due = [client for client in clients if client.standing is Standing.DUE]
    taken, left = followers.take(slots, by_transport=BY_TRANSPORT)
    used = sum(1 if cast("Client", client).by_socket else BY_TRANSPORT for client in taken)
    assert left == slots - used
    assert left > -BY_TRANSPORT
    assert left <= 0 or set(taken) == set(due)
    for client in [cast("Client", client) for client in taken]:
        assert client in due
        if client.cursor == refused:
            followers.refused(client, taken)
            client.standing = None
        elif not client.by_socket and client.cursor % 2:
            followers.to_socket(client, SOCKET, taken)
            client.by_socket = True
    for client in [cast("Client", client) for client in taken]:
        client.standing = Standing.CURRENT
    followers.written(taken)


def check(followers: Followers, clients: list[Client]) -> None:
    for standing, there in (
        (Standing.CURRENT, followers.current),
        (Standing.DUE, followers.due),
        (Standing.AHEAD, followers.ahead),
    ):
        assert set(there) == {client for client in clients if client.standing is standing}
    for client, socket in [*followers.current.items(), *followers.due.items()]:
        assert (socket is not None) == cast("Client", client).by_socket
    assert followers.by_transport == [*followers.current.values(), *followers.due.values()].count(None)

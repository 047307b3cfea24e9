"""The faults: each is a coroutine that does harm, waits a little, and undoes what does not undo itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from chaos.clock import Clock
from chaos.postgres import CONNECTIONS_MAX, Cluster
from chaos.proxy import Proxy, Toxic
from chaos.tenants import RUNS, Realm
from crash.fleet import Fleet, Member

NO_DATABASE: Final = ("runwire: cannot connect to PostgreSQL", "runwire: PostgreSQL: ")
"""What a process says that ends because of it as it starts."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What can be harmed. `to_database` and `to_api` are the proxies by the member behind or before them."""

    fleet: Fleet
    cluster: Cluster
    to_database: Mapping[str, Proxy]
    to_api: Mapping[str, Proxy]
    clock: Clock
    realm: Realm
    rng: random.Random
    running: asyncio.Lock
    """Held by what needs the database's servers for itself, or every process alive."""

    def any_member(self) -> Member:
        return self.rng.choice(self.fleet.members)

    def database_of_any(self) -> Proxy:
        return self.to_database[self.any_member().name]


async def kill(scene: Scene) -> None:
    """SIGKILL to a process; an init system starts it again, and again while there is no database to be had."""
    member = scene.any_member()
    async with scene.running:
        member.kill()
        for starts_left in reversed(range(20)):
            await asyncio.sleep(scene.rng.uniform(0, 0.5))
            try:
                await member.start(within_s=60)
            except RuntimeError:
                if not starts_left or not member.lines()[-1]["event"].startswith(NO_DATABASE):
                    raise
            else:
                return


async def freeze(scene: Scene) -> None:
    """SIGSTOP for longer than a lease, then SIGCONT: it must find itself fenced."""
    member = scene.any_member()
    async with scene.running:
        with member.frozen():
            await asyncio.sleep(scene.rng.uniform(4, 6))


async def slow_database(scene: Scene) -> None:
    """Latency between a process and PostgreSQL."""
    with scene.database_of_any().toxic(Toxic(latency_s=0.1, jitter_s=0.2)):
        await asyncio.sleep(scene.rng.uniform(1, 3))


async def narrow_database(scene: Scene) -> None:
    """Little bandwidth between a process and PostgreSQL."""
    with scene.database_of_any().toxic(Toxic(bytes_per_s=50_000)):
        await asyncio.sleep(scene.rng.uniform(1, 3))


async def cut_database(scene: Scene) -> None:
    """RST to every connection of a process to PostgreSQL."""
    for _ in range(3):
        scene.database_of_any().reset()
        await asyncio.sleep(scene.rng.uniform(0.1, 0.6))


async def mute_database(scene: Scene) -> None:
    """Half-open connections: what a process and PostgreSQL send each other vanishes, and nobody is told."""
    with scene.database_of_any().toxic(Toxic(mute=True)):
        await asyncio.sleep(scene.rng.uniform(2, 5))


async def slow_clients(scene: Scene) -> None:
    """Latency and little bandwidth between clients and an API process."""
    proxy = scene.rng.choice(list(scene.to_api.values()))
    with proxy.toxic(Toxic(latency_s=0.05, jitter_s=0.1, bytes_per_s=100_000)):
        await asyncio.sleep(scene.rng.uniform(1, 3))


async def cut_clients(scene: Scene) -> None:
    """RST to every client of an API process."""
    for _ in range(2):
        scene.rng.choice(list(scene.to_api.values())).reset()
        await asyncio.sleep(scene.rng.uniform(0.2, 1))


async def mute_clients(scene: Scene) -> None:
    """Half-open connections between clients and an API process."""
    with scene.rng.choice(list(scene.to_api.values())).toxic(Toxic(mute=True)):
        await asyncio.sleep(scene.rng.uniform(1, 3))


async def stalled_clients(scene: Scene) -> None:
    """Fifty clients that ask for streams and read nothing."""
    port, tenant = scene.rng.choice(scene.fleet.ports), scene.realm.tenants[0]
    request = f"GET {RUNS}/{tenant.run_id('golden-0')}/stream HTTP/1.1\r\nHost: localhost\r\n{tenant.header}\r\n"
    with contextlib.ExitStack() as held:
        for _ in range(50):
            client = held.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)  # the name of the method says what it sets
            with contextlib.suppress(OSError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port)), 2)
                client.send(request.encode("ascii"))
        await asyncio.sleep(scene.rng.uniform(1, 3))


async def deaf_bus(scene: Scene) -> None:
    """Whoever listens on the bus loses its connection, again and again, and what was sent meanwhile."""
    for _ in range(4):
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            await scene.cluster.primary.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'runwire listen%'"
                " OR application_name LIKE 'runwire bus%'"
            )
        await asyncio.sleep(0.3)


async def database_restarts(scene: Scene) -> None:
    """SIGKILL to PostgreSQL; it recovers from its log."""
    async with scene.running:
        primary = scene.cluster.primary
        primary.kill()
        await asyncio.sleep(scene.rng.uniform(0, 1))
        await primary.ready()


async def database_fails_over(scene: Scene) -> None:
    """The primary is lost for good; its synchronous standby is promoted and gets a standby of its own."""
    async with scene.running:
        cluster = scene.cluster
        await cluster.follow()
        await asyncio.sleep(scene.rng.uniform(0.5, 1))
        await cluster.fail_over()
        for proxy in scene.to_database.values():
            proxy.upstream_port = cluster.primary.port
        await cluster.unfollow()


async def disk_is_full(scene: Scene) -> None:
    """Not a byte more fits on PostgreSQL's file system; it stops, and comes back when there is room."""
    async with scene.running:
        primary = scene.cluster.primary
        with primary.full_disk():
            await asyncio.sleep(scene.rng.uniform(1.5, 3))
        await primary.ready()


async def connections_run_out(scene: Scene) -> None:
    """Somebody else takes every connection PostgreSQL has."""
    taken: list[asyncpg.Connection[asyncpg.Record]] = []
    try:
        for _ in range(CONNECTIONS_MAX):
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
                taken.append(await asyncpg.connect(scene.cluster.primary.dsn, timeout=2))
        scene.database_of_any().reset()  # whoever needs a new one now gets none
        await asyncio.sleep(scene.rng.uniform(1, 2))
    finally:
        for connection in taken:
            connection.terminate()


async def clock_jumps(scene: Scene) -> None:
    """The database's wall clock is five minutes ahead from one moment to the next: every worker's lease has ended."""
    scene.clock.turn(300)
    await asyncio.sleep(2)


async def clock_goes_back(scene: Scene) -> None:
    """The database's wall clock goes back by 20 s: leases hold longer than was meant."""
    scene.clock.turn(-20)
    await asyncio.sleep(2)


Fault = Callable[[Scene], Coroutine[Any, Any, None]]

FAULTS: Final[Mapping[str, Fault]] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        kill,
        freeze,
        slow_database,
        narrow_database,
        cut_database,
        mute_database,
        slow_clients,
        cut_clients,
        mute_clients,
        stalled_clients,
        deaf_bus,
        database_restarts,
        database_fails_over,
        disk_is_full,
        connections_run_out,
        clock_jumps,
        clock_goes_back,
    )
}

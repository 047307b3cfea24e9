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
from chaos.load import Load, followed, troubled_run
from chaos.postgres import CONNECTIONS_MAX, Cluster
from chaos.proxy import Proxy, Toxic
from chaos.tenants import RUNS, Realm
from crash.fleet import Fleet, Member
from waiting import eventually

NO_DATABASE: Final = ("runwire: cannot connect to PostgreSQL", "runwire: PostgreSQL: ")
"""The message of a process that ends because of the fault while it starts."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The parts that a fault can harm. `to_database` and `to_api` are the proxies by the member behind or before
    them.
    """

    fleet: Fleet
    cluster: Cluster
    to_database: Mapping[str, Proxy]
    to_api: Mapping[str, Proxy]
    clock: Clock
    realm: Realm
    rng: random.Random
    load: Load
    running: asyncio.Lock
    """Held by what needs the database's servers for itself, or every process alive."""

    def any_member(self) -> Member:
        return self.rng.choice(self.fleet.members)

    def database_of_any(self) -> Proxy:
        return self.to_database[self.any_member().name]

    async def session(self) -> asyncpg.Connection[asyncpg.Record]:
        """A session of the primary, as soon as it has room for one: another fault may have taken all of it."""

        async def connected() -> asyncpg.Connection[asyncpg.Record] | None:
            try:
                return await asyncpg.connect(self.cluster.primary.dsn, timeout=10)
            except (OSError, TimeoutError, asyncpg.PostgresError):
                return None

        session: asyncpg.Connection[asyncpg.Record] | None = await eventually(connected, within_s=60)
        assert session is not None
        return session

    async def restart(self, member: Member) -> None:
        """Starts a process that has ended, as an init system does: repeatedly while the database is away."""
        for starts_left in reversed(range(20)):
            await asyncio.sleep(self.rng.uniform(0, 0.5))
            try:
                await member.start(within_s=120)
            except RuntimeError:
                if not starts_left or not member.lines()[-1]["event"].startswith(NO_DATABASE):
                    raise
            else:
                return

    async def troubled(self, *ways: str) -> None:
        """A run for each way of going wrong, all at once; returns when each has come to its end."""
        async with asyncio.TaskGroup() as runs:
            for way in ways:
                name = f"trouble-{way}-{len(self.load.run_ids)}-{self.rng.randrange(10**9)}"
                tenant = self.rng.choice(self.realm.tenants)
                seed = self.rng.randrange(10**9)
                runs.create_task(
                    troubled_run(name, way, ports=self.fleet.ports, seed=seed, load=self.load, tenant=tenant)
                )


async def kill(scene: Scene) -> None:
    """SIGKILL to a process."""
    member = scene.any_member()
    async with scene.running:
        member.kill()
        await scene.restart(member)


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
    """Each listener on the bus loses its connection repeatedly, with the messages sent meanwhile."""
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


async def exiting_nodes(scene: Scene) -> None:
    """Nodes that end the interpreter, or raise what nobody catches: their runs fail, and nothing else does."""
    await scene.troubled("exit", "raise")


async def blocking_nodes(scene: Scene) -> None:
    """Nodes that hold the event loop for longer than a lease, asleep and at work."""
    await scene.troubled("block", "spin")


async def poison_runs(scene: Scene) -> None:
    """Two runs that kill every worker that takes them, until no worker does any more."""
    async with scene.running:
        runs = asyncio.create_task(scene.troubled("die", "crash"))
        while not runs.done():
            await asyncio.wait({runs}, timeout=0.2)
            for worker in scene.fleet.of("worker"):
                if not worker.running:
                    await scene.restart(worker)
        await runs


async def sessions_are_killed(scene: Scene) -> None:
    """Half of all database sessions end, picked at random, again and again."""
    for _ in range(4):
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            await scene.cluster.primary.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'runwire%' AND random() < 0.5"
            )
        await asyncio.sleep(scene.rng.uniform(0.1, 0.6))


async def tables_are_locked(scene: Scene) -> None:
    """Somebody locks a table as DDL does, and keeps it: for less than the database's timeout, and for more."""
    table = scene.rng.choice(("runs", "run_events", "run_outbox", "run_checkpoints", "publisher_shards", *OF_CONTENT))
    mode = scene.rng.choice(("ACCESS EXCLUSIVE", "SHARE UPDATE EXCLUSIVE"))
    async with scene.running:
        session = await scene.session()
        try:
            with contextlib.suppress(asyncpg.PostgresError):
                async with session.transaction():
                    await session.execute("SET LOCAL lock_timeout = '3s'")
                    await session.execute(f"LOCK TABLE {table} IN {mode} MODE")
                    await asyncio.sleep(scene.rng.uniform(1, 5))
        finally:
            session.terminate()


async def statements_fail(scene: Scene) -> None:
    """Every write to a table fails with one SQLSTATE, as with a broken disk, a lost privilege or a rule of somebody."""
    table = scene.rng.choice(("runs", "run_events", "run_outbox", "publishers", *OF_CONTENT))
    sqlstate = scene.rng.choice(SQLSTATES)
    async with scene.running:
        session = await scene.session()
        try:
            await session.execute(
                "CREATE OR REPLACE FUNCTION chaos_fails() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$BEGIN RAISE EXCEPTION 'chaos' USING ERRCODE = '{sqlstate}'; END$$"
            )
            await session.execute(
                f"CREATE TRIGGER chaos_fails BEFORE INSERT OR UPDATE ON {table}"
                " FOR EACH ROW EXECUTE FUNCTION chaos_fails()"
            )
            await asyncio.sleep(scene.rng.uniform(1, 2.5))
            await session.execute(f"DROP TRIGGER chaos_fails ON {table}")
        finally:
            session.terminate()


async def idle_connections(scene: Scene) -> None:
    """Hundreds of connections that say nothing, half a head, or half a body."""
    said = (
        b"",
        b"GET / HTTP/1.1\r\nHost:",
        f"POST {RUNS} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{{".encode(),
    )
    with contextlib.ExitStack() as held:
        for number in range(300):
            client = held.enter_context(socket.socket())
            client.setblocking(False)  # the name of the method says what it sets
            with contextlib.suppress(OSError, TimeoutError):
                address = ("127.0.0.1", scene.rng.choice(scene.fleet.ports))
                await asyncio.wait_for(asyncio.get_running_loop().sock_connect(client, address), 2)
                client.send(said[number % len(said)])
        await asyncio.sleep(scene.rng.uniform(2, 4))


async def archived_meanwhile(scene: Scene) -> None:
    """A day leaves the log while a run of it, pending until then, begins: all of its events must be somewhere."""
    async with scene.running:
        session = await scene.session()
        try:
            await _archive_beside_a_late_run(scene, session)
        finally:
            session.terminate()


async def _archive_beside_a_late_run(scene: Scene, session: asyncpg.Connection[asyncpg.Record]) -> None:
    day = await session.fetchval(
        "SELECT least(min(run_day), current_date - 40) - 1 FROM (SELECT run_day FROM runs UNION ALL"
        " SELECT run_day FROM archive_batches) AS days"
    )
    await session.execute("SELECT make_event_partition($1)", day)
    tenant = scene.realm.tenants[0]
    first, late = (tenant.run_id(f"{which}-{day}") for which in ("archived", "late"))
    async with asyncio.TaskGroup() as followers:
        for run_id, delay_s in ((first, 0.0), (late, scene.rng.uniform(1, 4))):
            scene.load.archived[run_id] = []
            await session.execute(BACKDATED, run_id, day, tenant.name, delay_s)
            followers.create_task(
                followed(run_id, tenant=tenant, ports=scene.fleet.ports, rng=scene.rng, load=scene.load)
            )
        # Once it is over it has been so for long: its day is due at once.
        await session.execute("UPDATE archive_progress SET archived_all = '-infinity'")
        ended = "UPDATE runs SET finished_at = created_at WHERE run_id = $1 AND finished_at IS NOT NULL RETURNING true"
        await eventually(lambda: session.fetchval(ended, first), within_s=60)


OF_CONTENT: Final = ("parts", "part_chunks", "artifacts", "content_blobs", "run_signals")
BACKDATED: Final = """
WITH made AS (
    INSERT INTO runs (run_id, run_day, created_at, tenant, agent, request_hash, input, lease_until)
    VALUES ($1, $2, $2::date, $3, 'golden', '', '{"delay_ms": 50}', now() + $4::float8 * interval '1 second')
    RETURNING run_id, run_day
)
INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM made
"""
SQLSTATES: Final = (
    "XX000", "XX001", "58030", "58000", "53100", "53200", "57014", "40001", "40P01", "55P03", "42501", "42P01",
    "0A000", "25006", "P0001",
)  # fmt: skip
"""One or more of each class that a write may fail with."""

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
        exiting_nodes,
        blocking_nodes,
        poison_runs,
        sessions_are_killed,
        tables_are_locked,
        statements_fail,
        idle_connections,
        archived_meanwhile,
    )
}

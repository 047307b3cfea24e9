"""One stream of many runs: each event once and in order, whatever happens between two connections."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.bus.memory import MemoryBus
from runwire.clock import monotonic
from runwire.db import Database, Row
from runwire.errors import CheckpointGone, CursorPastTail, InvalidRequest, RunNotFound
from runwire.stream.many import Selector
from runwire.stream.many.checkpoints import SQL, Checkpoint, Checkpoints
from runwire.stream.many.positions import RUNS_MAX, Positions, packed, parsed_id, stepped, unpacked
from runwire.stream.many.saving import STEPS_MAX
from runwire.telemetry.metrics import DisconnectReason
from stream.feed import Feed, count
from stream.many_client import ManyClient, replica
from stream.screen import Screen, watching
from waiting import eventually


async def runs(db: Database, bus: MemoryBus, n: int, *, session: str | None = None, prefix: str = "r") -> list[Feed]:
    feeds = []
    for number in range(n):
        feed = await Feed(db, bus, run_id=f"{prefix}{number:03}").start()
        if session is not None:
            await db.execute("UPDATE runs SET session = $2 WHERE run_id = $1", feed.run_id, session)
        feeds.append(feed)
    return feeds


def listed(feeds: list[Feed]) -> Selector:
    return Selector(runs=tuple(feed.run_id for feed in feeds))


def whole(feeds: list[Feed]) -> dict[str, list[int | str]]:
    """All that a client of these runs is told, so far."""
    told: dict[str, list[int | str]] = {}
    for feed in feeds:
        seqs: list[int | str] = [event.seq for event in feed.events[: feed.published]]
        if seqs and feed.published == len(feed.events) and feed.events[-1].type == "RunFinished":
            seqs.append("finished")
        if seqs:
            told[feed.run_id] = seqs
    return told


async def test_stored_and_live_events_of_a_list_come_each_once_and_the_stream_ends_with_the_last_run(
    db: Database, bus: MemoryBus
) -> None:
    feeds = await runs(db, bus, 3)
    await feeds[0].add(5)
    await feeds[1].add(2, end="finished")
    client = ManyClient(listed(feeds))
    async with replica(db, bus) as here:
        async with client.connected(here) as screen:
            await eventually(lambda: screen.text.count("data:") == 8)
            await feeds[2].add(3)
            await feeds[0].add(2, end="finished")
            await feeds[2].add(1, end="finished")
            await eventually(lambda: screen.reason)
            client.take(screen)
        assert screen.reason is DisconnectReason.TERMINAL
        assert client.seen == whole(feeds)
        async with client.connected(here):
            assert client.nothing_left
        assert count(here.one.metrics.stream_checkpoints) == 0, "a short list needs no checkpoint"


async def test_each_id_resumes_all_runs_exactly_here_and_on_another_replica(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 2 * STEPS_MAX)
    for turn in range(3):
        for feed in feeds:
            await feed.add(1, end="finished" if turn == 2 else None)
    async with replica(db, bus) as here, replica(db, bus) as there:
        first = ManyClient(listed(feeds))
        await first.follow(here, whole(feeds))
        assert len(first.ids) == 4 * len(feeds)
        for made, told in first.ids[:: len(first.ids) // 25]:
            again = ManyClient(listed(feeds), last_id=made)
            again.seen = {run: whole(feeds)[run][:n] for run, n in told.items()}
            await again.follow(there, whole(feeds))
        last = ManyClient(listed(feeds), last_id=first.ids[-1][0])
        async with last.connected(there):
            assert last.nothing_left


async def test_a_session_goes_on_after_its_runs_and_new_ones_join(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 2, session="chat")
    await runs(db, bus, 1, session="other", prefix="o")
    await feeds[0].add(2, end="finished")
    client = ManyClient(Selector(session="chat"))
    async with replica(db, bus) as here:
        await client.follow(here, whole(feeds))
        async with client.connected(here) as screen:
            await feeds[1].add(2, end="finished")
            feeds += await runs(db, bus, 1, session="chat", prefix="late")
            await feeds[2].add(3)
            here.many.look_soon()
            await eventually(lambda: screen.text.count("data:") == 6)
            assert screen.reason is None
            client.take(screen)
        assert client.seen == whole(feeds)
        await feeds[2].add(1, end="finished")
        feeds += await runs(db, bus, 1, session="chat", prefix="later")
        await feeds[3].add(1)
        await client.follow(here, whole(feeds))


async def test_a_run_that_starts_joins_by_itself_though_nobody_says_so(db: Database, bus: MemoryBus) -> None:
    client = ManyClient(Selector(session="chat"))
    async with replica(db, bus) as here, client.connected(here) as screen:
        feeds = await runs(db, bus, 1, session="chat")
        await feeds[0].add(2)
        await eventually(lambda: screen.text.count("data:") == 2)


class Recorded(Database):
    """A database that says what it was asked."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.fetched: list[str] = []

    async def fetch(self, sql: str, *args: object, within_s: float | None = None) -> list[Row]:
        self.fetched.append(sql)
        return await super().fetch(sql, *args, within_s=within_s)


async def test_one_statement_looks_for_all_streams_and_a_late_commit_is_found(database: str, bus: MemoryBus) -> None:
    """A start becomes visible when it commits, which may be long after the run's time of creation."""
    clients = [ManyClient(Selector(session=f"s{n}")) for n in range(3)]
    clients += [ManyClient(Selector(labels={"env": "prod"})), ManyClient(Selector(labels={"env": "test"}))]
    async with Recorded(database) as db, replica(db, bus) as here, contextlib.AsyncExitStack() as stack:
        screens = [await stack.enter_async_context(client.connected(here)) for client in clients]
        feeds = []
        for n, (session, label) in enumerate((("s0", "prod"), ("s1", "test"), ("s9", "prod"))):
            (feed,) = await runs(db, bus, 1, session=session, prefix=f"r{n}-")
            await db.execute(
                "UPDATE runs SET labels = jsonb_build_object('env', $2::text), created_at = now() - interval '40 s'"
                " WHERE run_id = $1",
                feed.run_id,
                label,
            )
            await feed.add(1)
            feeds.append(feed)
        expected: tuple[list[Feed], ...] = (feeds[:1], feeds[1:2], [], [feeds[0], feeds[2]], feeds[1:2])
        for screen, told in zip(screens, expected, strict=True):
            await eventually(lambda screen=screen, told=told: screen.text.count("data:") == len(told), within_s=20)  # type: ignore[misc]
        db.fetched.clear()
        await here.many.look()
        assert SQL["fresh"] in db.fetched
        assert SQL["found"] not in db.fetched, "a statement for one stream"


async def test_a_hundred_runs_on_one_connection_cost_less_than_a_third_more_bytes(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 100, prefix="0197a5c2-7c3e-7d51-9a4e-2f5c8a1b7d")
    alone = 0
    async with replica(db, bus) as here:
        for kind in ("live", "stored"):
            client = ManyClient(listed(feeds))
            if kind == "live":
                async with client.connected(here) as screen:
                    for turn in range(6):
                        for feed in feeds:
                            await feed.add(1, end="finished" if turn == 5 else None)
                    await eventually(lambda: screen.reason, within_s=30)
                    client.take(screen)
                together = sum(map(len, screen.writes))
            else:
                await client.follow(here, whole(feeds))
                together = client.bytes
            assert client.seen == whole(feeds)
            if kind == "live":
                for feed in feeds:
                    async with watching(here.one.streams, feed.run_id) as single:
                        await eventually(lambda: single.reason)  # awaited here
                    alone += sum(map(len, single.writes)) + len(b"retry: 2000\n\nid: 0\n\n")
            assert together < 1.3 * alone, (kind, together / alone)


async def test_an_id_of_other_runs_or_of_nobody_is_refused(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 2 * STEPS_MAX, session="chat")
    for feed in feeds:
        await feed.add(2)
    client = ManyClient(Selector(session="chat"))
    async with replica(db, bus) as here:
        await client.follow(here, whole(feeds))
        assert client.last_id is not None
        key, _, steps = client.last_id.partition(".")
        for selector, last_id, error in (
            (Selector(session="else"), client.last_id, CheckpointGone),
            (listed(feeds), client.last_id, CheckpointGone),
            (client.selector, "1.", CheckpointGone),
            (client.selector, "0.", CheckpointGone),
            (client.selector, f"{key}.Zz", InvalidRequest),
            (client.selector, f"{key}.a0", InvalidRequest),
            (client.selector, f"{key}.aa", InvalidRequest),
            (client.selector, f"{key}.a999", CursorPastTail),
            (client.selector, "x" * 9000, InvalidRequest),
            (client.selector, "12", InvalidRequest),
            (client.selector, "zzzzzzzzzzz.", InvalidRequest),
            (listed(feeds), "0.a9", CursorPastTail),
            (Selector(runs=("nobody",)), None, RunNotFound),
        ):
            with pytest.raises(error):
                async with ManyClient(selector, last_id=last_id).connected(here):
                    pass
        with pytest.raises(CheckpointGone):
            async with ManyClient(client.selector, tenant="acme", last_id=client.last_id).connected(here):
                pass
        assert re.fullmatch(r"[0-9A-Za-z]+\.[A-Za-z0-9]*", client.last_id), steps


async def test_a_silent_stream_gets_heartbeats_and_an_old_one_is_rotated(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 2)
    await feeds[0].add(1)
    client = ManyClient(listed(feeds))
    async with replica(db, bus, sse_heartbeat_s=15, sse_max_age_s=3600) as here:
        async with client.connected(here) as screen:
            await eventually(lambda: screen.text.count("data:") == 1)
            (session,) = here.one.streams.sessions
            await eventually(lambda: session.is_parked)  # type: ignore[attr-defined]
            now = monotonic()
            assert session.tend(now + 10) > 9
            session.tend(now + 15.1)
            assert screen.text.endswith(": heartbeat\n\n")
            await here.one.streams.tend(now + 2 * 3600)
            await eventually(lambda: screen.reason)
            client.take(screen)
        assert screen.reason is DisconnectReason.ROTATE
        assert screen.retry_ms is not None
        await feeds[1].add(1)
        await client.follow(here, whole(feeds))


async def test_a_client_that_does_not_read_is_ended_within_its_bound_and_can_resume(
    db: Database, bus: MemoryBus
) -> None:
    feeds = await runs(db, bus, 20)
    client = ManyClient(listed(feeds))
    async with replica(db, bus, sse_slow_bytes=65_536, sse_slow_s=0.3) as here:
        screen = Screen()
        async with client.connected(here, screen=screen):
            screen.stuck = 10**6
            for _ in range(15):
                for feed in feeds:
                    await feed.add(10)
            await eventually(lambda: screen.reason, within_s=20)
        assert screen.reason is DisconnectReason.SLOW
        assert sum(map(len, screen.writes)) < 65_536
        client.take(screen)
        await client.follow(here, whole(feeds))


async def test_a_slow_client_goes_on_where_it_was_when_it_reads_again(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 20)
    client = ManyClient(listed(feeds))
    async with replica(db, bus, sse_slow_bytes=65_536) as here:
        screen = Screen()
        async with client.connected(here, screen=screen):
            for turn in range(30):
                screen.stuck = 10**6 if turn % 3 else 0
                for feed in feeds:
                    await feed.add(5)
            screen.stuck = 0
            await eventually(lambda: screen.text.count("data:") == 20 * 150, within_s=20)
            client.take(screen)
        assert client.seen == whole(feeds)


async def test_old_checkpoints_are_collected_and_their_ids_are_refused(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 2, session="chat")
    await feeds[0].add(1)
    client = ManyClient(Selector(session="chat"))
    async with replica(db, bus) as here:
        for _ in range(2):
            await client.follow(here, whole(feeds))
        assert await here.many.checkpoints.collect() == 0
        await db.execute("UPDATE stream_checkpoints SET key = key - ((4 * 3600 * 1000)::bigint << 22)")
        stored = await db.fetchval("SELECT count(*) FROM stream_checkpoints")
        assert await here.many.checkpoints.collect(at_once=1) == stored > 1
        assert await db.fetchval("SELECT count(*) FROM stream_checkpoints") == 0
        with pytest.raises(CheckpointGone):
            async with client.connected(here):
                pass


async def test_events_do_not_wait_for_a_database_that_cannot_store_positions(db: Database, bus: MemoryBus) -> None:
    feeds = await runs(db, bus, 3 * STEPS_MAX)
    client = ManyClient(listed(feeds))
    async with replica(db, bus) as here:
        await db.execute("ALTER TABLE stream_checkpoints ADD CONSTRAINT no_more CHECK (false) NOT VALID")
        async with client.connected(here) as screen:
            for feed in feeds:
                await feed.add(1)
            await eventually(lambda: screen.text.count("data:") == len(feeds))
            client.take(screen)
        await db.execute("ALTER TABLE stream_checkpoints DROP CONSTRAINT no_more")
        await feeds[0].add(1)
        await client.follow(here, whole(feeds))


async def test_a_session_with_more_runs_than_a_stream_may_have_is_followed_from_its_newest(
    db: Database, bus: MemoryBus
) -> None:
    feeds = await runs(db, bus, 6, session="chat")
    for feed in feeds:
        await feed.add(2, end="finished" if feed is feeds[5] else None)
    client = ManyClient(Selector(session="chat"))
    async with replica(db, bus, runs_max=4) as here:
        await client.follow(here, whole(feeds[2:]))


async def test_a_stream_that_has_named_all_runs_that_ids_can_name_numbers_those_that_are_open_anew(
    db: Database, bus: MemoryBus
) -> None:
    feeds = await runs(db, bus, 3, session="chat")
    for feed in feeds[:2]:
        await feed.add(2, end="finished")
    await feeds[2].add(1)
    client = ManyClient(Selector(session="chat"))
    async with replica(db, bus, known_max=3) as here:
        async with client.connected(here) as screen:
            await eventually(lambda: screen.text.count("event: end") == 2, within_s=20)
            for turn in range(4):  # far more than ids of the first list could name
                feeds += await runs(db, bus, 2, session="chat", prefix=f"late{turn}")
                for feed in feeds[-2:]:
                    await feed.add(2, end="finished")
                await feeds[2].add(1)
                here.many.look_soon()
                ends = 2 * turn + 4
                await eventually(lambda ends=ends: screen.text.count("event: end") == ends, within_s=20)  # type: ignore[misc]
            assert screen.reason is None, "it goes on"
            client.take(screen)
        assert client.seen == whole(feeds)
        for made, told in client.ids[:: max(len(client.ids) // 10, 1)]:
            again = ManyClient(client.selector, last_id=made)
            again.seen = {run: whole(feeds)[run][:n] for run, n in told.items()}
            await again.follow(here, whole(feeds))
    positions = Positions([str(n) for n in range(RUNS_MAX)], [0] * RUNS_MAX, key=1)
    assert parsed_id(positions.step(RUNS_MAX - 1, count=1)[0]) == (1, {RUNS_MAX - 1: 1}), "ids can name all of these"


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 300)), max_size=40), st.integers(0, 2**63 - 1))
def test_an_id_says_where_its_client_is(steps: list[tuple[int, int]], key: int) -> None:
    positions = Positions([str(n) for n in range(61)], [5] * 61, key=key)
    for number, further in steps:
        made = positions.step(number, count=further)
        assert len(made) == further
        assert made[-1] == positions.id
        found, since = parsed_id(made[0])
        assert (found, stepped([5] * 61, since)[number]) == (key, positions.sent[number] - further + 1)
    found, since = parsed_id(positions.id)
    assert (found, stepped([5] * 61, since)) == (key, positions.sent)
    assert unpacked(packed(positions.sent)) == positions.sent
    base = [sent - sent % 3 for sent in positions.sent]
    positions.rebase(7, base)
    found, since = parsed_id(positions.id)
    assert (found, stepped(base, since)) == (7, positions.sent)


@given(st.text(max_size=40) | st.from_regex(r"[0-9A-Za-z]{1,12}\.[A-Za-z0-9]{0,20}", fullmatch=True))
def test_whatever_is_sent_as_an_id_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        key, steps = parsed_id(text)
        assert 0 <= key < 2**63
        assert all(0 <= number < RUNS_MAX and further >= 1 for number, further in steps.items())


async def test_a_key_that_is_taken_is_drawn_again(db: Database) -> None:
    """Two processes may draw the same key in the same millisecond, and so may two clients of one."""
    drawn = iter([7, 7, 8, 7, 9, 8, 10])
    ours = Checkpoints(db, keep_s=60, key=lambda: next(drawn))
    made = [Checkpoint("", b"s", 0, (f"r{n}",), (n,)) for n in range(4)]
    keys = await asyncio.gather(*(ours.store(one) for one in made[:2]))
    assert keys == [7, 8]
    keys += [await ours.store(one) for one in made[2:]]
    assert keys == [7, 8, 9, 10]
    for key, one in zip(keys, made, strict=True):
        assert await ours.load(key, tenant=None, selector=b"s") == one

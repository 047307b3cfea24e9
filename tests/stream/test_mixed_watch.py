"""Clients of a mixed stream share its live end: each event and byte once, whatever is lost, late or repeated."""

from __future__ import annotations

import asyncio

import pytest

from counting import count
from runwire.bus.memory import MemoryBus
from runwire.clock import monotonic
from runwire.db import Database
from runwire.errors import InvalidRequest, RunNotFound
from runwire.stream import MixedCursor
from runwire.stream.mixed.frames import event_frame, ids_in
from runwire.stream.mixed.reader import BytesAt
from runwire.stream.mixed.slots import PartSlots
from runwire.stream.mixed.trail import Trail
from runwire.telemetry.metrics import DisconnectReason
from stream.mixed_feed import MixedClient, MixedReplica, PartsFeed, mixed_replica
from stream.screen import Connected, Screen
from waiting import eventually


async def begun(db: Database, bus: MemoryBus, here: MixedReplica, *, parts: int = 1) -> PartsFeed:
    """A run with an event and open parts."""
    run = PartsFeed(db, bus, here.feed)
    await run.start()
    await run.add(1)
    for n in range(1, parts + 1):
        await run.open(n)
    return run


async def test_all_followers_of_a_part_get_its_bytes_without_a_read(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        first, second = MixedClient(), MixedClient()
        async with first.connected(here) as one, second.connected(here) as two:
            for client, screen in ((first, one), (second, two)):
                await client.sees(screen, {1: b""}, events=2)
            reads = -1, -1
            while reads[0] != here.parts.reads:  # until both follow
                reads = here.parts.reads, here.parts.batches
                await run.write(b".")
                for client, screen in ((first, one), (second, two)):
                    await client.sees(screen, run.written, events=2)
            for n in range(50):
                await run.write(b"%d " % n)
                if n % 10 == 0:
                    await run.add(1)
            for client, screen in ((first, one), (second, two)):
                await client.sees(screen, run.written, events=7)
            assert here.parts.batches - reads[1] <= 5  # a look each second
            assert here.parts.reads == reads[0]
            await eventually(lambda: here.metrics.lag.count >= 100)
            assert one.writes[1:] == two.writes[1:] or b"".join(one.writes) == b"".join(two.writes)


async def test_a_run_that_ends_ends_its_streams_with_all_bytes_of_parts_left_open(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here, parts=2)
        client = MixedClient()
        async with client.connected(here) as screen:
            await client.sees(screen, {1: b"", 2: b""}, events=3)
            await run.write(b"all", 1)
            await run.end_part(1)
            await run.write(b"never told of", 2, tell="nothing")
            await run.add(1, end="failed")
            await eventually(lambda: screen.reason, within_s=20)
            client.take(screen)
        assert screen.reason is DisconnectReason.TERMINAL
        assert (client.content, client.ended, len(client.seqs)) == (run.written, True, 5)
        async with client.connected(here):
            assert client.nothing_left


@pytest.mark.parametrize("tell", ["hint", "nothing", "late"])
async def test_bytes_whose_news_were_lost_late_or_only_a_hint_come_once(
    db: Database, bus: MemoryBus, tell: str
) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        client = MixedClient()
        async with client.connected(here) as screen:
            await client.sees(screen, {1: b""}, events=2)
            for word in (b"a", b"bb", b"ccc"):
                await run.write(word, tell=tell)
            run.catch_up()
            await client.sees(screen, {1: b"abbccc"}, events=2)
            await run.write(b"dd", tell="nothing")
            await run.write(b"e")  # after a gap
            await client.sees(screen, {1: b"abbcccdde"}, events=2)


async def test_characters_are_never_cut_however_bytes_are_cut(db: Database, bus: MemoryBus) -> None:
    text = "Grüße, 世界! 🚀".encode()
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        client = MixedClient()
        async with client.connected(here) as screen:
            await client.sees(screen, {1: b""}, events=2)
            for n in range(len(text)):
                await run.write(text[n : n + 1], tell=("bytes", "hint", "nothing", "late")[n % 4])
                run.catch_up()
            await client.sees(screen, {1: text}, events=2)
            await run.write(b"\xf0\x9f")  # half a character: it comes with the end
            await run.end_part()
            await client.sees(screen, {1: text + b"\xf0\x9f"}, events=3)


async def test_a_client_that_comes_in_the_middle_of_a_chunk_gets_the_rest_of_it(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        early = MixedClient()
        async with early.connected(here) as first:
            await run.write(b"0123456789" * 100)
            await early.sees(first, run.written, events=2)
            for at in (1, 5, 999, 1000):
                late = MixedClient(last_id=f"2~1.1:{at}", seqs=[1, 2], content={1: run.written[1][:at]})
                async with late.connected(here) as second:
                    writing = asyncio.create_task(run.write(b"more"))
                    await writing
                    await late.sees(second, run.written, events=2)
            await early.sees(first, run.written, events=2)
            with pytest.raises(InvalidRequest):
                async with MixedClient(last_id="2~1.1:99999").connected(here):
                    pass
    async with mixed_replica(db, bus) as here:
        with pytest.raises(RunNotFound):
            async with MixedClient().connected(here, run_id="nobody"):
                pass


async def test_an_attempt_begun_again_resets_the_clients_that_follow(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        clients = [MixedClient() for _ in range(3)]
        async with clients[0].connected(here) as one, clients[1].connected(here) as two:
            await run.write(b"first try")
            for client, screen in ((clients[0], one), (clients[1], two)):
                await client.sees(screen, {1: b"first try"}, events=2)
            await run.end_part(state="abandoned", publish=False)
            await run.open(publish=False)
            await run.write(b"second")  # before anybody heard of the attempt
            await run.publish()
            await run.write(b" one")
            for client, screen in ((clients[0], one), (clients[1], two)):
                await client.sees(screen, {1: b"second one"}, events=4)
                client.take(screen)
                assert client.attempts == {1: 2}
            async with clients[2].connected(here) as three:
                await clients[2].sees(three, {1: b"second one"}, events=4)
        stale = MixedClient(last_id="2~1.1:5", seqs=[1, 2], content={1: b"first"}, attempts={1: 1})
        async with stale.connected(here) as again:
            await stale.sees(again, {1: b"second one"}, events=4)


async def test_a_client_that_does_not_read_is_ended_within_its_bound_and_others_go_on(
    db: Database, bus: MemoryBus
) -> None:
    async with mixed_replica(db, bus, sse_slow_bytes=65_536, sse_slow_s=0.3) as here:
        run = await begun(db, bus, here)
        slow, quick = MixedClient(), MixedClient()
        async with slow.connected(here) as stuck, quick.connected(here) as screen:
            for client, shown in ((slow, stuck), (quick, screen)):
                await client.sees(shown, {1: b""}, events=2)
            stuck.stuck = 10**6
            for _ in range(40):
                await run.write(b"x" * 8000)
            await quick.sees(screen, run.written, events=2)
            await eventually(lambda: stuck.reason, within_s=20)
            slow.take(stuck)
        assert stuck.reason is DisconnectReason.SLOW
        assert sum(map(len, stuck.writes)) < 65_536
        async with slow.connected(here) as again:
            await slow.sees(again, run.written, events=2)


async def test_a_slow_client_goes_on_where_it_was_when_it_reads_again(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus, sse_slow_bytes=65_536) as here:
        run = await begun(db, bus, here)
        client, screen = MixedClient(), Connected()
        try:
            async with client.connected(here, screen=screen):
                await client.sees(screen, {1: b""}, events=2)
                for turn in range(30):
                    screen.stuck = 10**6 if turn % 3 else 0
                    await run.write(b"%d " % turn * 700)
                    if turn % 7 == 0:
                        await run.add(1)
                screen.stuck = 0
                await client.sees(screen, run.written, events=7)
        finally:
            screen.close()


async def test_followers_on_sockets_of_their_own_get_the_same_bytes(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        client, screen = MixedClient(), Connected()
        try:
            async with client.connected(here, screen=screen):
                await client.sees(screen, {1: b""}, events=2)
                for n in range(20):
                    await run.write(b"%d " % n)
                await run.end_part()
                await run.add(1, end="finished")
                await eventually(lambda: screen.reason, within_s=20)
                await client.sees(screen, run.written, events=4)
        finally:
            screen.close()


async def test_a_client_with_places_that_nobody_else_has_gets_everything_once(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here, parts=2)
        await run.write(b"one", 1)
        await run.write(b"two", 2)
        client = MixedClient()
        async with client.connected(here) as screen:
            await client.sees(screen, run.written, events=3)
            client.take(screen)
        client.names = frozenset({"p2"})  # it keeps its place in the other part, and no one else of these has one
        async with client.connected(here) as screen, MixedClient(names=client.names).connected(here) as other:
            await run.write(b" and more", 1)
            await run.write(b" and more", 2)
            await run.add(1)
            await client.sees(screen, {1: b"one", 2: b"two and more"}, events=4)
            await MixedClient().sees(other, {1: b"", 2: b"two and more"}, events=4)
            client.take(screen)
        client.names = None
        async with client.connected(here) as screen:
            await client.sees(screen, run.written, events=4)


async def test_mixed_streams_beat_rotate_and_end_with_a_drain(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus, sse_heartbeat_s=15, sse_max_age_s=3600) as here:
        run = await begun(db, bus, here)
        clients = [MixedClient(), MixedClient()]
        async with clients[0].connected(here) as one, clients[1].connected(here) as two:
            await clients[0].sees(one, {1: b""}, events=2)
            await clients[1].sees(two, {1: b""}, events=2)
            now = monotonic()
            await here.one.streams.tend(now + 16)
            assert one.text.endswith(": heartbeat\n\n")
            next(iter(here.one.streams.sessions)).rotate_within(0)
            await here.one.streams.tend(monotonic())
            await eventually(lambda: one.reason or two.reason, within_s=20)
            await here.one.streams.drain(within_s=20)
            assert {one.reason, two.reason} == {DisconnectReason.ROTATE, DisconnectReason.DRAIN}
            clients[0].take(one)
        assert run.events
        assert clients[0].cursor == MixedCursor(2)


async def test_a_key_that_no_longer_holds_ends_a_stream_that_still_reads_backlog(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus, sse_slow_bytes=65_536) as here:
        run = await begun(db, bus, here)
        await run.write(b"x" * 300_000)
        screen = Screen()
        screen.stuck = 10**6
        async with MixedClient().connected(here, screen=screen):
            await eventually(lambda: here.one.streams.sessions)
            next(iter(here.one.streams.sessions)).rotate_within(0)
            await here.one.streams.tend(monotonic())
            await eventually(lambda: screen.reason, within_s=20)
        assert screen.reason is DisconnectReason.ROTATE


async def test_a_database_that_is_away_delays_bytes_and_ends_no_stream(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        client = MixedClient()
        async with client.connected(here) as screen:
            await client.sees(screen, {1: b""}, events=2)
            (session,) = here.one.streams.sessions
            await eventually(lambda: session.is_parked, within_s=20)  # type: ignore[attr-defined]
            here.parts.away = True
            await run.write(b"told ")
            await run.open(2)
            await run.write(b"not told", 2, tell="hint")
            await eventually(lambda: here.parts.refused > 2, within_s=20)
            here.parts.away = False
            await client.sees(screen, {1: b"told ", 2: b"not told"}, events=3)
        assert count(here.one.metrics.sse_connections) == 0


async def test_a_client_far_behind_reads_until_it_has_caught_up_though_nothing_happens(
    db: Database, bus: MemoryBus
) -> None:
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        for _ in range(20):
            await run.write(b"x" * 40_000)
        first, late = MixedClient(), MixedClient()
        async with first.connected(here) as one:
            await first.sees(one, run.written, events=2)
            async with late.connected(here) as two:  # there is a place to reach by now
                await late.sees(two, run.written, events=2)


async def test_late_bytes_are_counted_where_every_look_finds_something_new(db: Database, bus: MemoryBus) -> None:
    """Where the way to PostgreSQL is slow, a client that follows a busy part never finds nothing new."""
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)

        async def busy() -> None:
            if len(run.written[1]) < 500:
                await run.write(b"late ", tell="hint")

        here.parts.first = busy
        client = MixedClient()
        async with client.connected(here) as screen:
            await eventually(lambda: len(run.written[1]) >= 500, within_s=60)
            await client.sees(screen, run.written, events=2)
            await eventually(lambda: here.metrics.lag.count >= 3, within_s=20)


async def test_bytes_that_were_read_together_are_as_late_as_the_first_of_them(db: Database, bus: MemoryBus) -> None:
    """PostgreSQL says when the last of them came: here, in an hour. A look without a hint knows no better."""
    async with mixed_replica(db, bus) as here:
        run = await begun(db, bus, here)
        client = MixedClient()
        async with client.connected(here) as screen:

            async def follows() -> bool:
                await run.write(b".")
                return here.metrics.lag.count > 0

            await eventually(follows, within_s=20)
            await client.sees(screen, run.written, events=2)
            before = here.metrics.lag.sum
            for _ in range(20):
                read_on = asyncio.Event()
                here.parts.first = read_on.wait
                await run.write(b"first ", tell="hint", ahead_s=3600)
                await run.write(b"last ", tell="nothing", ahead_s=3600)
                read_on.set()
                await client.sees(screen, run.written, events=2)
                if here.metrics.lag.sum > before:
                    break
            assert here.metrics.lag.sum > before


async def test_frames_that_a_late_client_takes_from_the_trail_have_their_times(db: Database, bus: MemoryBus) -> None:
    async with mixed_replica(db, bus) as here:
        shared = here.one.streams.shared
        slots = PartSlots(shared.scheduler, metrics=shared.metrics, parts=here.metrics, now_us=shared.now_us)
        trail = Trail("run-1", "1", slots=slots, limits=shared.limits)
        trail.add(event_frame("2", b"{}") + event_frame("3", b"{}"), ["2", "3"], [(1, 70), (1, BytesAt(71))])
        trail.add(event_frame("4", b"{}"), ["4"], [(1, BytesAt(72))])
        await trail.fanout.idle()
        frames, times = trail.frames_after(1)
        assert (ids_in(frames), times) == (["3", "4"], [(1, 71), (1, 72)])
        assert all(isinstance(at, BytesAt) for _, at in times)

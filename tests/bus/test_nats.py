"""Rules of the NATS bus alone: subjects that cannot be patterns, bounds, servers that go away or refuse clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from nats_server import nats_server
from runwire.bus import Published
from runwire.bus.nats import NatsBusReader, NatsBusWriter, NatsOptions
from runwire.bus.nats_wire import decoded, encoded, subject_of
from runwire.errors import BusUnavailable, InvalidRequest
from runwire.model.event import StoredEvent
from waiting import eventually

RUN_IDS = st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True).filter(lambda run_id: run_id not in (".", ".."))


def message(run_id: str, seq: int, *, fn: str = "x") -> Published:
    return Published(run_id, seq, seq, (StoredEvent(seq, 1_700_000_000_000_000, "DebugTrace", None, fn),))


@asynccontextmanager
async def linked(*sides: NatsBusWriter | NatsBusReader) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(side.link.run()) for side in sides]
    try:
        for side in sides:
            await asyncio.wait_for(side.link.connected.wait(), 10)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@given(RUN_IDS, RUN_IDS)
def test_runs_have_subjects_of_their_own_that_are_no_patterns(one: str, other: str) -> None:
    subject = subject_of(one)
    assert (subject == subject_of(other)) == (one == other)
    assert subject.count(".") == "runwire.v1.run.x".count(".")
    assert not set("*> \t\r\n") & set(subject)


@pytest.mark.parametrize("run_id", ["*", ">", "a b", "a\r\nPUB x", "", "x" * 129, "a=b", ".."])
def test_what_is_no_run_id_has_no_subject(run_id: str) -> None:
    with pytest.raises(InvalidRequest):
        subject_of(run_id)


def test_a_message_survives_the_way_and_shrinks_to_a_hint_when_it_is_too_large() -> None:
    traceparent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    events = (
        StoredEvent(3, 1_700_000_000_000_001, "NodeStarted", "Ping", None),
        StoredEvent(4, 1_700_000_000_000_002, "DebugTrace", None, "ping.sent"),
    )
    whole = Published("r", 3, 4, events, traceparent)
    assert decoded("r", encoded(whole, at_most=1000)) == whole
    assert decoded("r", encoded(whole, at_most=100)) == Published("r", 3, 4, None, traceparent)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        encoded(message("r", 1, fn="x\n\ndata: forged"), at_most=1000),
        encoded(message("r", 1, fn='x"}'), at_most=1000),
        encoded(Published("r", 0, 1, None), at_most=1000),
        encoded(Published("r", 1, 1, None, "00-x\r\n"), at_most=1000),
    ],
)
def test_what_no_publisher_sends_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decoded("r", data)


async def test_a_stranger_on_the_subject_reaches_no_subscriber() -> None:
    missed: list[None] = []
    async with nats_server() as server:
        options = NatsOptions((server.url,))
        writer, reader = NatsBusWriter(options), NatsBusReader(options, on_missed=lambda: missed.append(None))
        got: list[Published] = []
        async with linked(writer, reader), reader.subscribe("r", got.append):
            before = len(missed)
            stranger = Client()
            await stranger.connect(server.url, allow_reconnect=False)
            await stranger.publish(subject_of("r"), b"\xc1 forged")
            await stranger.flush()
            await stranger.close()
            await writer.publish([message("r", 1)])
            await eventually(lambda: got == [message("r", 1)])
            await eventually(lambda: len(missed) > before)


async def test_a_subscriber_that_is_overrun_is_told_once_and_goes_on() -> None:
    missed: list[None] = []
    async with nats_server() as server:
        options = NatsOptions((server.url,))
        writer = NatsBusWriter(options)
        reader = NatsBusReader(options, on_missed=lambda: missed.append(None), pending_messages=4)
        got: list[int] = []
        async with linked(writer, reader), reader.subscribe("r", lambda m: got.append(m.last_seq)):
            await writer.publish([message("r", seq) for seq in range(1, 2001)])
            await eventually(lambda: len(missed) > 1)
            assert len(got) < 2000
            assert got == sorted(got), "what was not dropped is in order"
            assert len(missed) < 20 < reader.dropped, "told of many at once"

            async def heard_again() -> bool:
                await writer.publish([message("r", 5000)])
                return got[-1] == 5000

            await eventually(heard_again)


async def test_while_the_server_is_away_publishing_fails_at_once_and_streams_may_open() -> None:
    async with nats_server() as server:
        options = NatsOptions((server.url,))
        writer, reader = NatsBusWriter(options), NatsBusReader(options)
        async with linked(writer, reader):
            server.stop()
            await eventually(lambda: not writer.link.connected.is_set() and not reader.link.connected.is_set())
            with pytest.raises(BusUnavailable):
                await asyncio.wait_for(writer.publish([message("r", 1)]), 0.5)
            got: list[Published] = []
            async with reader.subscribe("r", got.append):
                await server.start()
                for side in (writer, reader):
                    await asyncio.wait_for(side.link.connected.wait(), 10)
                await writer.publish([message("r", 1)])
                await eventually(lambda: len(got) == 1)


async def test_a_server_that_stops_answering_is_an_error_and_not_a_hang() -> None:
    async with nats_server() as server:
        writer = NatsBusWriter(NatsOptions((server.url,), timeout_s=1.0))
        async with linked(writer):
            server.freeze()
            with pytest.raises(BusUnavailable):
                await asyncio.wait_for(writer.publish([message("r", 1)]), 5)
            server.thaw()

            async def answers() -> bool:
                try:
                    await writer.publish([message("r", 2)])
                except BusUnavailable:
                    return False
                return True

            await eventually(answers, within_s=30)


async def test_the_server_has_everything_when_publish_returns() -> None:
    async with nats_server() as server:
        writer, witness = NatsBusWriter(NatsOptions((server.url,))), Client()
        await witness.connect(server.url, allow_reconnect=False)
        async with linked(writer):
            for n in range(1, 11):
                seen = await witness.subscribe(subject_of(f"r{n}"))
                await witness.flush()
                await witness.flush()  # the first one's question may overtake the subscription, and bring it on its way
                await writer.publish([message(f"r{n}", seq) for seq in range(1, 301)])
                await witness.flush()  # the answer comes after what the server had for the witness by then
                assert seen.pending_msgs == 300
        await witness.close()


async def test_one_server_of_several_is_enough() -> None:
    async with nats_server() as server:
        options = NatsOptions(("nats://127.0.0.1:1", server.url), timeout_s=1)
        writer = NatsBusWriter(options)
        async with linked(writer):
            await writer.publish([message("r", 1)])


async def test_who_is_not_let_in_says_so_without_the_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        "authorization { users = [ { user: publisher, password: hunter22, "
        'permissions: { publish: "runwire.v1.>", subscribe: "runwire.v1.>" } } ] }'
    )
    async with nats_server("-c", config) as server:
        address = f"127.0.0.1:{server.port}"
        writer = NatsBusWriter(NatsOptions((f"nats://publisher:hunter22@{address}",)))
        async with linked(writer):
            await writer.publish([message("r", 1)])
        refused = NatsBusWriter(NatsOptions((f"nats://publisher:hunter23@{address}",)))
        task = asyncio.create_task(refused.link.run())
        await asyncio.sleep(0.3)
        with pytest.raises(BusUnavailable):
            await refused.publish([message("r", 1)])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    said = capsys.readouterr()
    assert "hunter" not in said.out + said.err

"""The format: what is packed comes back, and nothing else passes for it."""

from __future__ import annotations

import datetime as dt
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from runwire.archive.format import (
    FORMAT,
    FRAME_EVENTS,
    FRAME_RAW_MAX,
    Chain,
    LoggedEvent,
    RunHeader,
    decoded_manifest,
    lines_of,
    packed,
    unpacked,
    zstd,
)
from runwire.errors import ArchiveCorrupt

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.:-]{0,20}", fullmatch=True)
FNS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}([.:][A-Za-z0-9_]{1,9}){0,7}", fullmatch=True)


def header(*, run_id: str = "r", first: int = 1) -> RunHeader:
    return RunHeader(FORMAT, run_id, dt.date(2026, 10, 24), "default", "golden", "finished", 13, first)


@st.composite
def logs(draw: st.DrawFn) -> list[LoggedEvent]:
    kinds = draw(st.lists(st.sampled_from(["NodeStarted", "DebugTrace", "NodeFinished"]), min_size=1, max_size=40))
    return [
        LoggedEvent(
            seq,
            draw(st.integers(0, 2**62)),
            kind,
            draw(st.sampled_from(["api", "worker"])),
            None if kind == "DebugTrace" else draw(NAMES),
            draw(FNS) if kind == "DebugTrace" else None,
        )
        for seq, kind in enumerate(kinds, start=1)
    ]


def chained(run_id: str, events: list[LoggedEvent]) -> bytes:
    chain = Chain(run_id)
    chain.add(lines_of(events))
    return chain.link


def test_a_frame_tells_of_its_run_s_session_and_labels_and_older_ones_have_none() -> None:
    lines = lines_of([LoggedEvent(1, 5, "RunStarted", "worker", None, None)])
    named = replace(header(), session="chat-17", labels={"env": "prod"})
    assert unpacked(packed(named, lines), run_id="r", first=1).header == named
    assert b"session" not in zstd().decompress(packed(header(), lines))
    assert unpacked(packed(header(), lines), run_id="r", first=1).header.labels == {}


@given(logs())
def test_what_is_packed_comes_back(log: list[LoggedEvent]) -> None:
    lines = lines_of(log)
    frame = unpacked(packed(header(), lines), run_id="r", first=1)
    assert (frame.events, frame.lines, frame.header) == (log, lines, header())


@given(logs(), st.data())
def test_the_chain_knows_every_event_its_place_and_its_run(log: list[LoggedEvent], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(log) - 1))
    other = log.copy()
    other[at] = other[at]._replace(ts_us=other[at].ts_us + 1)
    assert chained("r", other) != chained("r", log)
    assert chained("r", log[:-1]) != chained("r", log)
    assert chained("s", log) != chained("r", log)
    if len(log) > 1 and log[0] != log[-1]:
        assert chained("r", [log[-1], *log[1:-1], log[0]]) != chained("r", log)


def test_the_chain_can_be_computed_by_anybody() -> None:
    """As docs/retention.md has it, with nothing of ours."""
    event = LoggedEvent(1, 5, "RunStarted", "worker", None, None)
    line = b'{"seq":1,"tsUs":5,"type":"RunStarted","source":"worker","v":1}'
    assert lines_of([event]) == [line]
    first = hashlib.sha256(b"runwire-archive/1 r\n").digest()
    assert chained("r", [event]) == hashlib.sha256(first + line).digest()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not zstd",
        packed(header(), lines_of([LoggedEvent(1, 5, "RunStarted", "worker", None, None)]))[:-3],
        packed(header(), []),
        packed(header(run_id="s"), lines_of([LoggedEvent(1, 5, "RunStarted", "worker", None, None)])),
        packed(header(first=2), lines_of([LoggedEvent(2, 5, "DebugTrace", "worker", None, "a")])),
        packed(header(), lines_of([LoggedEvent(2, 5, "DebugTrace", "worker", None, "a")])),
        packed(header(), [b'{"seq":1}']),
        packed(header(), [b"\xff"]),
        packed(header(), [b'{"seq":1,"tsUs":5,"type":"RunStarted","source":"worker","v":1,"x":' + b"[" * 100_000]),
        packed(header(), [b'{"seq":1,"tsUs":5,"type":"RunBroken","source":"worker","v":1}']),
        packed(header(), [b'{"seq":1,"tsUs":5,"type":"DebugTrace","source":"worker","v":1,"fn":"a\\n\\nid: 9"}']),
        packed(header(), [b'{"seq":1,"tsUs":5,"type":"DebugTrace","source":"worker","v":1,"fn":"a\\",\\"seq\\":7"}']),
        packed(header(), [b'{"seq":1,"tsUs":5,"type":"NodeStarted","source":"worker","v":1,"name":"a b"}']),
        packed(header(), [b'{"seq":1,"tsUs":-5,"type":"RunStarted","source":"worker","v":1}']),
        packed(header(), [b'{"seq":1,"tsUs":5,"type":"RunStarted","source":"worker","v":2}']),
        packed(header(), lines_of([LoggedEvent(1, 5, "RunStarted", "worker", None, None)])) * 2,
    ],
)
def test_what_is_not_the_frame_asked_for_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveCorrupt):
        unpacked(data, run_id="r", first=1)


def test_a_frame_that_unpacks_to_too_much_is_not_unpacked() -> None:
    z = zstd()
    bomb: bytes = z.compress(b"\n" * (FRAME_RAW_MAX * 50), options={z.CompressionParameter.window_log: 17})
    assert len(bomb) < 10_000
    with pytest.raises(ArchiveCorrupt, match="does not end"):
        unpacked(bomb, run_id="r", first=1)


def test_a_frame_that_asks_for_much_memory_is_not_unpacked() -> None:
    """A few bytes are enough to ask for a window of 128 MiB."""
    z = zstd()
    parameters = {z.CompressionParameter.window_log: 27, z.CompressionParameter.compression_level: 1}
    compressor = z.ZstdCompressor(options=parameters)
    greedy: bytes = compressor.compress(b"x") + compressor.flush()
    with pytest.raises(ArchiveCorrupt, match="ZstdError"):
        unpacked(greedy, run_id="r", first=1)


def test_the_largest_frame_there_can_be_is_unpacked() -> None:
    """With events as long as the log takes, of which none is like another."""
    varied = random.Random(1)
    log = [
        LoggedEvent(seq, 2**62, "DebugTrace", "worker", None, ":".join(varied.randbytes(15).hex() for _ in range(8)))
        for seq in range(1, FRAME_EVENTS + 1)
    ]
    log = [event._replace(fn="a" + str(event.fn)) for event in log]
    assert unpacked(packed(header(), lines_of(log)), run_id="r", first=1).events == log


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b'{"format": "other"}', b"\xff", b'{"format": "\xff"}', b'{"x":' + b"[" * 100_000],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveCorrupt):
        decoded_manifest(data)

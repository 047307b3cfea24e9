"""Frames made in C are those made in Python, to the byte, and nothing that is no event gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.model.event import FN_PATTERN, NAME_PATTERN, Source, StoredEvent, WireEncoder
from runwire.stream import _frames, frames
from runwire.stream.frames import Frames, joined_chunk
from runwire.stream.sse import chunk, event_frame

pytest.importorskip("runwire.stream._frames", reason="runwire was installed without a C compiler")

INT64 = st.integers(-(2**63), 2**63 - 1)
EVENTS = st.lists(
    st.builds(
        StoredEvent,
        INT64,
        INT64,
        st.sampled_from(["RunStarted", "DebugTrace", "NodeFinished"]),
        st.none() | st.from_regex(NAME_PATTERN),
        st.none() | st.from_regex(FN_PATTERN) | st.just("f" * 3000) | st.just("f" * 20_000),
    ),
    max_size=9,
)


@given(EVENTS, st.sampled_from(Source), st.sampled_from(["r", "run-1:a.b_c", "r" * 128]))
def test_frames_are_the_events_as_the_encoder_writes_them(
    events: list[StoredEvent], source: Source, run_id: str
) -> None:
    encode = WireEncoder(run_id, source=source).json
    assert Frames(run_id, source=source).of(events) == b"".join(
        [event_frame(event.seq, encode(event)) for event in events]
    )
    assert Frames(run_id, source=source).of(tuple(events)) == Frames(run_id, source=source).of(events)


def test_it_is_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [StoredEvent(1, 1_700_000_000_123_456, "NodeStarted", "Warmup", None)]
    compiled = Frames("run-1").of(events)
    chunked = joined_chunk([compiled, b"more"])
    monkeypatch.setattr(frames, "frames", None)
    monkeypatch.setattr(frames, "joined", None)
    assert Frames("run-1").of(events) == compiled
    assert joined_chunk([compiled, b"more"]) == chunked


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ((1, 2, "DebugTrace", None, "caf\xe9"), ValueError),
        ((1, 2, "DebugTrace", "\U0001f600", None), ValueError),
        ((2**63, 2, "DebugTrace", None, None), OverflowError),
        (("1", 2, "DebugTrace", None, None), TypeError),
        ((1, 2, b"DebugTrace", None, None), TypeError),
        ((1, 2, "DebugTrace", None), TypeError),
        ([1, 2, "DebugTrace", None, None], TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_event_is_refused(event: object, error: type[Exception]) -> None:
    whole = StoredEvent(1, 2, "DebugTrace", None, "a.b")
    with pytest.raises(error):
        Frames("run-1").of([whole, event])  # type: ignore[list-item]


def test_what_is_no_sequence_or_no_bytes_is_refused() -> None:
    with pytest.raises(TypeError):
        _frames.frames("head", b"tail", [])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _frames.frames(b"head", b"tail", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _frames.joined(["a"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        _frames.joined(1)  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=400), max_size=9))
def test_pieces_joined_into_a_chunk_are_the_chunk_of_the_joined_pieces(given: list[bytes]) -> None:
    assert joined_chunk(given) == chunk(b"".join(given))

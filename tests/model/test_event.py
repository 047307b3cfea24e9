from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.errors import InvalidRequest
from runwire.model.event import (
    FN_PATTERN,
    NAME_PATTERN,
    EventType,
    NewEvent,
    Source,
    StoredEvent,
    WireEncoder,
    debug_trace,
    error_trace,
    node_started,
)

NOT_IDENTIFIERS = ["", "a b", "a\n", "\na", "a.", ".a", "a..b", "1a", "ä", 'a"', "a\\", "x" * 65, ".".join("a" * 9)]


@pytest.mark.parametrize("fn", NOT_IDENTIFIERS)
def test_a_trace_that_is_no_identifier_is_refused(fn: str) -> None:
    with pytest.raises(InvalidRequest):
        debug_trace(fn)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "DebugTrace", "fn": fn}, NewEvent)


@pytest.mark.parametrize("fn", ["ensureDevice.check", "error:timeout:openApp", "a.0", "_", "x" * 64])
def test_identifiers_dotted_or_with_colons_are_traces(fn: str) -> None:
    assert debug_trace(fn) == msgspec.convert({"type": "DebugTrace", "fn": fn}, NewEvent)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "1a", 'a"', "x" * 129])
def test_a_node_name_that_would_need_escaping_is_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "NodeStarted", "name": name}, NewEvent)


@pytest.mark.parametrize("code", ["Has space", "boom\n", "x" * 49, "", "no such key: 'secret'"])
def test_an_error_code_that_is_not_bounded_becomes_exception(code: str) -> None:
    assert error_trace(code, "openApp").fn == "error:exception:openApp"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "NodeStarted"},
        {"type": "NodeFinished", "fn": "a"},
        {"type": "DebugTrace"},
        {"type": "DebugTrace", "fn": "a", "name": "A"},
        {"type": "RunStarted", "name": "A"},
        {"type": "RunFinished", "fn": "a"},
        {"type": "RunFinished", "payload": {}},
        {"type": "Unknown"},
    ],
)
def test_an_event_has_the_fields_of_its_type_and_no_other(event: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(event, NewEvent)


@given(
    name=st.none() | st.from_regex(NAME_PATTERN),
    fn=st.none() | st.from_regex(FN_PATTERN),
    seq=st.integers(1, 2**53),
    ts_us=st.integers(0, 2**53),
)
def test_the_fast_encoder_writes_what_the_model_would(name: str | None, fn: str | None, seq: int, ts_us: int) -> None:
    if name is not None:
        fn = None
        new = node_started(name)
    else:
        new = debug_trace(fn) if fn is not None else NewEvent(EventType.RUN_STARTED)
    stored = StoredEvent(seq, ts_us, new.type.value, new.name, new.fn)
    for source in Source:
        written = WireEncoder("run-1", source=source).json(stored)
        assert written.encode() == msgspec.json.encode(stored.on_wire("run-1", source=source))
        assert "\n" not in written

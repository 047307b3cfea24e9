"""The parser reads any event stream the rules allow, however the network cuts it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runwire.client import EventTooLong, ServerEvent, SseParser
from runwire.client.sse import MAX_EVENT_CHARS

FIELDS = st.sampled_from(
    [
        "data",
        "data:",
        "data: x",
        "data:  two spaces",
        "data:y",
        "data: é \u2028 😀",
        "id: 7",
        "id",
        "id: a\0b",
        "event: end",
        "event",
        "retry: 250",
        "retry: 1s",
        "retry:",
        ": a comment",
        ":",
        "unknown: field",
        " data: a leading space is part of the name",
        "",
        "",
    ]
)
LINE_ENDS = st.sampled_from(["\n", "\r", "\r\n"])
STREAMS = st.builds(
    lambda bom, lines, rest: (bom + "".join(line + end for line, end in lines) + rest).encode(),
    st.sampled_from(["", "\ufeff"]),
    st.lists(st.tuples(FIELDS, LINE_ENDS), max_size=30),
    st.sampled_from(["", "data: unfinished"]),
)


def parsed(*chunks: bytes, last_event_id: str = "") -> tuple[list[ServerEvent], str, int | None]:
    parser = SseParser(last_event_id=last_event_id)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events, parser.last_event_id, parser.retry_ms


def by_the_book(stream: bytes) -> list[ServerEvent]:
    """The rules of the specification, applied to the whole stream at once."""
    text = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events = []
    data, event, last_id = "", "", ""
    for line in text.split("\n")[:-1]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                events.append(ServerEvent(event or "message", data[:-1], last_id))
            data, event = "", ""
        elif name == "data":
            data += value + "\n"
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


@given(STREAMS)
def test_a_stream_means_what_the_specification_says(stream: bytes) -> None:
    assert parsed(stream)[0] == by_the_book(stream)


@given(STREAMS, st.lists(st.integers(min_value=0, max_value=400), max_size=20))
@example(b"data: a\r\n\r\ndata: b\r\r", [8, 10])
@example("\ufeffdata: é\n\n".encode(), [1, 2, 10])
def test_any_chunking_yields_the_same_events(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert parsed(*(stream[a:b] for a, b in pairwise(edges))) == parsed(stream)


@given(STREAMS)
def test_byte_by_byte_is_the_same_as_at_once(stream: bytes) -> None:
    assert parsed(*(bytes([byte]) for byte in stream)) == parsed(stream)


def test_lines_of_data_are_joined_by_newlines() -> None:
    assert parsed(b"data: a\ndata\ndata: b\n\n")[0] == [ServerEvent("message", "a\n\nb", "")]


def test_an_id_only_block_is_no_event_but_sets_the_cursor() -> None:
    assert parsed(b"id: 41\n\n") == ([], "41", None)


def test_an_id_counts_only_once_its_block_is_complete() -> None:
    assert parsed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")[1] == "1"


def test_an_id_with_nul_is_ignored() -> None:
    assert parsed(b"id: 1\ndata: a\n\nid: \x00\ndata: b\n\n")[0][1].last_event_id == "1"


def test_the_cursor_of_the_last_connection_holds_until_a_new_one_comes() -> None:
    assert parsed(b"data: a\n\n", last_event_id="9")[0] == [ServerEvent("message", "a", "9")]


def test_retry_takes_digits_only() -> None:
    assert parsed(b"retry: 2000\nretry: 2e3\nretry: -1\nretry: \xd9\xa1\n")[2] == 2000


def test_what_is_unfinished_is_no_event() -> None:
    assert parsed(b"data: a\n")[0] == []


@pytest.mark.parametrize("endless", [b"data: " + b"x" * MAX_EVENT_CHARS, b"data: " + b"x" * 1000 + b"\n"])
def test_an_endless_event_is_refused_before_it_takes_all_memory(endless: bytes) -> None:
    times = 2 * MAX_EVENT_CHARS // len(endless)
    with pytest.raises(EventTooLong):
        parsed(*[endless] * times)

"""Readers of bytes that anybody may send. Each target raises only the errors that its reader declares."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Final

import msgspec

from fuzz import cold, content, credentials
from runwire.client.sse import EventTooLong, ServerEvent, SseParser
from runwire.errors import InvalidRequest
from runwire.model.state_shape import deep
from runwire.orchestrate.run_view import RunOrder, decoded_cursor
from runwire.server.addresses import Network
from runwire.server.bodies import AppendEvents, SendSignal, StartRun
from runwire.server.forwarded import client_address
from runwire.stream.cursor import CURSOR_MAX, parse_cursor
from runwire.stream.many.positions import RUNS_MAX, packed, parsed_id, unpacked
from runwire.telemetry.traceparent import parse_traceparent

_BODIES: Final = tuple(msgspec.json.Decoder(body) for body in (StartRun, AppendEvents, SendSignal))
_PROXIES: Final[tuple[Network, ...]] = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def cursor(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        read = parse_cursor(from_seq=text, last_event_id=None)
    except InvalidRequest:
        return
    assert 0 <= read.seq <= CURSOR_MAX
    assert str(read.seq) == text.lstrip("0") or read.seq == 0
    if text:
        assert parse_cursor(from_seq="no number", last_event_id=text).seq == read.seq


def many_runs_id(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        key, steps = parsed_id(text)
    except InvalidRequest:
        return
    assert 0 <= key < 2**63
    assert all(0 <= number < RUNS_MAX and further >= 1 for number, further in steps.items())
    assert unpacked(packed(list(steps.values()))) == list(steps.values())


def list_cursor(data: bytes) -> None:
    for text in (data.decode("utf-8", "replace"), base64.urlsafe_b64encode(data).decode().rstrip("=")):
        for order in RunOrder:
            try:
                at_us, run_id = decoded_cursor(text, order=order)
            except InvalidRequest:
                continue
            assert at_us >= 0
            assert 1 <= len(run_id) <= 128


def body(data: bytes) -> None:
    for decoder in _BODIES:
        try:
            read = decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(read, StartRun):
            deep(read.input, limit=100)
        assert decoder.decode(msgspec.json.encode(read)) == read


def event_stream(data: bytes) -> None:
    """However the network cuts a stream, it says the same."""
    cut = data[0] % max(len(data), 1) if data else 0
    whole, parts = SseParser(), SseParser()
    try:
        told = whole.feed(data)
    except EventTooLong:
        return
    assert all(isinstance(event, ServerEvent) for event in told)
    assert [*parts.feed(data[:cut]), *parts.feed(data[cut:])] == told
    assert (parts.last_event_id, parts.retry_ms) == (whole.last_event_id, whole.retry_ms)


def traceparent(data: bytes) -> None:
    context = parse_traceparent(data.decode("latin-1"))
    if context is not None:
        assert parse_traceparent(str(context)) == context


def forwarded_for(data: bytes) -> None:
    assert len(client_address("10.0.0.1", [data.decode("latin-1")], _PROXIES)) <= 64


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    **{
        target.__name__: target
        for target in (cursor, list_cursor, many_runs_id, body, event_stream, traceparent, forwarded_for)
    },
    **credentials.TARGETS,
    **cold.TARGETS,
    **content.TARGETS,
}

SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "cursor": (b"0", b"17", b"9223372036854775807", b"-1", "٣".encode()),
    "many_runs_id": (b"4kX9zQ2mT1a.bAe3Df", b"0.a"),
    "list_cursor": (b"1700000000000000 run-1",),
    "body": (
        b'{"agent":"golden","input":{"a":[1,{"b":null}]},"runId":"r"}',
        b'{"events":[{"type":"DebugTrace","fn":"a.b:c"},{"type":"NodeStarted","name":"N"}],"ifSeq":3}',
        b'{"name":"approved"}',
    ),
    "event_stream": (b"retry: 2000\n\nid: 3\ndata: {}\n\n: heartbeat\r\n\r\nevent: end\ndata: x\n\n",),
    "traceparent": (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",),
    "forwarded_for": (b"203.0.113.7, 10.2.3.4", b"::ffff:1.2.3.4, unknown"),
    **credentials.SEEDS,
    **cold.SEEDS,
    **content.SEEDS,
}

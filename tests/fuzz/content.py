"""Readers of what clients say of content: cursors, offsets, ranges, names, the data of signals, and bytes as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Final, cast

import msgspec
from aiohttp import web

from runwire.content import part as parts
from runwire.content.part import Part, PartState
from runwire.errors import InvalidRequest, PartReset, RangeNotSatisfiable
from runwire.model import content
from runwire.model.event import debug_trace
from runwire.model.labels import LABELS_MAX, VALUE_MAX_BYTES
from runwire.model.part_offset import offset_text
from runwire.model.text import whole_characters
from runwire.orchestrate.signalling import DATA_MAX_BYTES, SentSignal
from runwire.server.bodies import OpenPart
from runwire.server.part_stream import offset_in
from runwire.server.ranges import range_of
from runwire.stream.many.selector import Selector
from runwire.stream.mixed.cursor import PARTS_MAX, parse_mixed_cursor

SIZE: Final = 1000
ETAG: Final = '"x"'
_PART: Final = Part("r", 1, 7, 3, "answer", "text/plain", PartState.OPEN, SIZE, 2, None, None)
_OPEN: Final = msgspec.json.Decoder(OpenPart)


def mixed_cursor(data: bytes) -> None:
    try:
        cursor = parse_mixed_cursor(data.decode("utf-8", "replace"), where="Last-Event-ID")
    except InvalidRequest:
        return
    assert len(cursor.places) <= PARTS_MAX
    assert all(n >= 1 and attempt >= 1 and at >= 0 for n, (attempt, at) in cursor.places.items())
    assert parse_mixed_cursor(cursor.text, where="Last-Event-ID") == cursor


def part_offset(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        at = offset_in(text, _PART)
    except (InvalidRequest, PartReset):
        return
    assert 0 <= at <= SIZE
    assert text in ("-1", "now", offset_text(_PART.attempt, at))


def byte_range(data: bytes) -> None:
    text = data.decode("latin-1")
    for size in (0, SIZE):
        request = SimpleNamespace(method="GET", headers={"Range": text, "If-Range": ETAG})  # a real one is slow to make
        try:
            chosen = range_of(cast("web.Request", request), size=size, etag=ETAG)
        except RangeNotSatisfiable:
            continue
        if chosen is not None:
            assert text.isascii()
            assert 0 <= chosen.start < chosen.stop <= size


def content_name(data: bytes) -> None:
    """A name is part of an event's `fn`, which can be taken apart in one way only."""
    text = data.decode("utf-8", "replace")
    for check, begins, state in ((content.checked_name, "artifact", ""), (parts.checked_name, "part", ":sealed")):
        try:
            name = check(text)
        except InvalidRequest:
            continue
        fn = debug_trace(f"{begins}:{name}:17{state}").fn
        assert fn is not None
        assert fn.split(":")[:3] == [begins, text, "17"]
    for check_type in (content.checked_media_type, parts.checked_media_type):
        try:
            media_type = check_type(text)
        except InvalidRequest:
            continue
        assert media_type.isascii()
        assert media_type.isprintable()


def open_part(data: bytes) -> None:
    try:
        read = _OPEN.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    assert _OPEN.decode(msgspec.json.encode(read)) == read


def signal_data(data: bytes) -> None:
    sent = SentSignal("go", data, "id")
    try:
        sent.check()
    except InvalidRequest:
        return
    assert len(data) <= DATA_MAX_BYTES
    again = SentSignal("go", msgspec.json.encode(msgspec.json.decode(data)), "id")
    assert again.digest() == sent.digest(), "the same data, written otherwise"


def selector(data: bytes) -> None:
    words = data.decode("utf-8", "replace").split("\n")
    for runs, sessions, labels in ((words, (), ()), ((), words, ()), ((), (), words), (words, words, ())):
        try:
            chosen = Selector.of(runs=runs, sessions=sessions, labels=labels)
        except InvalidRequest:
            continue
        assert bool(chosen.runs) + (chosen.session is not None) + bool(chosen.labels) == 1
        assert len(chosen.labels) <= LABELS_MAX
        assert all(len(value.encode()) <= VALUE_MAX_BYTES for value in chosen.labels.values())
        assert chosen.subject.startswith("?")
        assert len(chosen.digest) == 16


def text_in_pieces(data: bytes) -> None:
    """However bytes arrive, showing whole characters shows all of them, once."""
    cut = data[0] % max(len(data), 1) if data else 0
    first = whole_characters(data[:cut])
    assert data[:cut].startswith(first)
    assert cut - len(first) <= 3
    rest = whole_characters(data[len(first) :], last=True)
    assert first + rest == data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    assert first.decode() + rest.decode() == text


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        mixed_cursor,
        part_offset,
        byte_range,
        content_name,
        open_part,
        signal_data,
        selector,
        text_in_pieces,
    )
}

SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "mixed_cursor": (b"17~1.1:40,2.3:0", b"0", b"3~12.1:999999999999999999"),
    "part_offset": (b"0000000003_00000000000000000999", b"-1", b"now", b"0000000002_00000000000000000000"),
    "byte_range": (b"bytes=0-499", b"bytes=-5", b"bytes=999-", "bytes=٣-".encode()),
    "content_name": (b"report.v1.pdf", b"answer", b"text/plain; charset=utf-8", b"result"),
    "open_part": (b'{"name":"answer","mediaType":"text/markdown"}',),
    "signal_data": (b'{"comment":"x","n":[1,2.50,null,true]}', b"1e400", b'"\\ud800"', b'{"a":1,"a":2}'),
    "selector": (b"run-1\nrun-2", b"chat:7", b"env:prod\nteam:a b"),
    "text_in_pieces": ("Grüße, 世界 🙂".encode(), b"\xff\xf0\x9f\x99", b"\xc3"),
}

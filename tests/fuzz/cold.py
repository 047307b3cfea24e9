"""Readers of an archive's files, which may have been changed there: frames and manifests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from runwire.archive.format import (
    FORMAT,
    FRAME_RAW_MAX,
    LoggedEvent,
    Manifest,
    RunEntry,
    RunHeader,
    decoded_manifest,
    encoded_manifest,
    lines_of,
    packed,
    unpacked,
    zstd,
)
from runwire.errors import ArchiveCorrupt
from runwire.model.event import WireEncoder

HEADER: Final = RunHeader(FORMAT, "r", dt.date(2026, 10, 24), "default", "golden", "finished", 13, 1)
LINES: Final = lines_of(
    [
        LoggedEvent(1, 1_792_800_000_000_000, "RunStarted", "worker", None, None),
        LoggedEvent(2, 1_792_800_000_000_001, "NodeStarted", "worker", "EnsureDevice", None),
        LoggedEvent(3, 1_792_800_000_000_002, "DebugTrace", "api", None, "ensureDevice.check"),
        LoggedEvent(4, 1_792_800_000_000_003, "RunFinished", "worker", None, None),
    ]
)
MANIFEST: Final = Manifest(
    FORMAT,
    "runwire 0",
    "b",
    HEADER.run_day,
    dt.datetime(2026, 11, 24, tzinfo=dt.UTC),
    "b.jsonl.zst",
    99,
    "ab" * 32,
    1,
    13,
    (RunEntry("r", 0, (99,), 13, "cd" * 32),),
)


def archived_frame(data: bytes) -> None:
    """As it is, and as what a frame of the right kind has in it."""
    text = zstd().decompress(packed(HEADER, LINES))
    _read_frame(data)
    _read_frame(zstd().compress(data))
    _read_frame(zstd().compress(text.split(b"\n")[0] + b"\n" + data))


def archived_manifest(data: bytes) -> None:
    try:
        manifest = decoded_manifest(data)
    except ArchiveCorrupt:
        return
    assert manifest.format == FORMAT
    assert decoded_manifest(encoded_manifest(manifest)) == manifest


def _read_frame(data: bytes) -> None:
    try:
        frame = unpacked(data, run_id="r", first=1)
    except ArchiveCorrupt:
        return
    assert sum(map(len, frame.lines)) <= FRAME_RAW_MAX
    assert [event.seq for event in frame.events] == list(range(1, len(frame.events) + 1))
    wire = WireEncoder("r")
    for event in frame.events:  # what clients would be sent
        assert wire.json(event.stored()).encode() == msgspec.json.encode(event.stored().on_wire("r"))


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (archived_frame, archived_manifest)
}

SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "archived_frame": (packed(HEADER, LINES), b"\n".join((*LINES, b"")), LINES[0] + b"\n"),
    "archived_manifest": (encoded_manifest(MANIFEST),),
}

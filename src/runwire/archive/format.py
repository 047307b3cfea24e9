"""The format of cold storage: frames of JSON lines, a hash chain through each run, a manifest for each batch. Pure.

A batch is one file of zstd frames, a run after the other, so that `zstd -dc` shows all of it and a range request gets
one run. A frame holds at most `FRAME_EVENTS` events: a header line that says whose they are, then a line for each.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from runwire.errors import ArchiveCorrupt
from runwire.model.event import VERSION, EventType, Fn, NodeName, Source, StoredEvent

if TYPE_CHECKING:
    from types import ModuleType

FORMAT: Final = "runwire-archive/1"
FRAME_EVENTS: Final = 1000
"""Events of a frame, so that a page of the API spans at most two frames."""
FRAME_RAW_MAX: Final = 1 << 20
"""Bytes of a frame unpacked: its lines are shorter than 600 bytes. A frame that unpacks to more was not written by
runwire.
"""
WINDOW_LOG_MAX: Final = 20
"""The same limit for the memory of unpacking: a few bytes can demand a window of gigabytes."""
LEVEL: Final = 9
_INT64_MAX: Final = (1 << 63) - 1


def zstd() -> ModuleType:
    """Of the standard library, or of the extra; `open_store` sees that there is one."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class LoggedEvent(NamedTuple):
    """An event as the log holds it, with all that is needed to put it back. `ts_us` is epoch microseconds."""

    seq: int
    ts_us: int
    type: str
    source: str
    name: str | None
    fn: str | None

    def stored(self) -> StoredEvent:
        return StoredEvent(self.seq, self.ts_us, self.type, self.name, self.fn)


class RunHeader(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The first line of a frame. `first` is the seq of its first event, `last_seq` that of the run's last.

    The session and the labels are in the first frame of a run.
    """

    format: str
    run_id: str
    run_day: dt.date
    tenant: str
    agent: str
    state: str
    last_seq: int
    first: int
    session: str | None = None
    labels: dict[str, str] = {}


class _Line(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """An event in a frame. Key order and spelling are part of the format: the chain is over these bytes."""

    seq: int
    ts_us: int
    type: str
    source: str
    v: int = msgspec.field()
    name: str | None = None
    fn: str | None = None


class _EventLine(_Line, frozen=True, rename="camel", gc=False):
    """A line as it is read. It is checked, so that a writer to the archive cannot inject events into clients'
    streams.
    """

    seq: Annotated[int, msgspec.Meta(ge=1, le=_INT64_MAX)]
    ts_us: Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]
    type: EventType
    source: Source
    v: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)] = msgspec.field()
    name: NodeName | None = None
    fn: Fn | None = None


class RunEntry(msgspec.Struct, frozen=True, array_like=True):
    """A run in a manifest: where its frames begin, the bytes of each, its events, its chain in hex."""

    run_id: str
    begins: int
    frames: tuple[int, ...]
    events: int
    chain: str


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """The contents of a batch. With it, its file can be read and proven without any database."""

    format: str
    writer: str
    batch_id: str
    run_day: dt.date
    written_at: dt.datetime
    data: str
    bytes: int
    sha256: str
    runs: int
    events: int
    index: tuple[RunEntry, ...]


_encoder: Final = msgspec.json.Encoder()
_headers: Final = msgspec.json.Decoder(RunHeader)
_lines: Final = msgspec.json.Decoder(_EventLine)
_manifests: Final = msgspec.json.Decoder(Manifest)


class Chain:
    """The hash chain of one run: each link is the SHA-256 of the one before and of an event's line.

    So the last link fixes every event, its place and what came before it.
    """

    def __init__(self, run_id: str) -> None:
        self.link = hashlib.sha256(f"{FORMAT} {run_id}\n".encode()).digest()

    def add(self, lines: Sequence[bytes]) -> None:
        link, sha256 = self.link, hashlib.sha256
        for line in lines:
            link = sha256(link + line).digest()
        self.link = link


def lines_of(events: Sequence[LoggedEvent]) -> list[bytes]:
    """Each event as its line, without the newline."""
    encode = _encoder.encode
    return [encode(_Line(e.seq, e.ts_us, e.type, e.source, VERSION, e.name, e.fn)) for e in events]


def packed(header: RunHeader, lines: Sequence[bytes]) -> bytes:
    """A frame, with a checksum of its own."""
    raw = b"\n".join((_encoder.encode(header), *lines, b""))
    z = zstd()
    options = {z.CompressionParameter.compression_level: LEVEL, z.CompressionParameter.checksum_flag: 1}
    compressed: bytes = z.compress(raw, options=options)
    return compressed


class Frame(NamedTuple):
    """A parsed frame. Its part of the chain covers `lines`."""

    header: RunHeader
    lines: list[bytes]
    events: list[LoggedEvent]


def unpacked(data: bytes, *, run_id: str, first: int) -> Frame:
    """The frame of `run_id` that begins at event `first`. Raises ArchiveCorrupt when `data` is anything else."""
    z = zstd()
    try:
        unpacker = z.ZstdDecompressor(options={z.DecompressionParameter.window_log_max: WINDOW_LOG_MAX})
        raw = unpacker.decompress(data, max_length=FRAME_RAW_MAX)
        if not unpacker.eof or unpacker.unused_data:
            raise ArchiveCorrupt(f"a frame of run {run_id!r} does not end at its recorded place")
        head, *lines, rest = raw.split(b"\n")
        header = _headers.decode(head)
        decoded = [_lines.decode(line) for line in lines]
    except (z.ZstdError, ValueError, RecursionError) as error:
        raise ArchiveCorrupt(f"a frame of run {run_id!r} cannot be read: {type(error).__name__}") from error
    events = [LoggedEvent(e.seq, e.ts_us, e.type, e.source, e.name, e.fn) for e in decoded]
    dense = [event.seq for event in events] == list(range(first, first + len(events)))
    if rest or header.format != FORMAT or header.run_id != run_id or header.first != first or not events or not dense:
        raise ArchiveCorrupt(f"a frame is not that of run {run_id!r} from event {first} on")
    return Frame(header, lines, events)


def encoded_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(_encoder.encode(manifest), indent=0) + b"\n"


def decoded_manifest(data: bytes) -> Manifest:
    """Raises ArchiveCorrupt."""
    try:
        manifest = _manifests.decode(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveCorrupt(f"a manifest cannot be read: {type(error).__name__}") from error
    if manifest.format != FORMAT:
        raise ArchiveCorrupt(f"a manifest has the format {manifest.format!r}, not {FORMAT!r}")
    return manifest

"""Events, version 1: payload-free facts of a run, and how they look on the wire."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec

from runwire.errors import InvalidRequest
from runwire.model.names import code_of, plain

VERSION: Final = 1

# `$` alone would let a last newline pass, which ends an SSE line and breaks JSON written without escapes.
NAME_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_.:-]{0,127}$(?!\n)"
FN_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,63}(?:[.:][A-Za-z0-9_]{1,64}){0,7}$(?!\n)"

NodeName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=128)]
"""A node as its agent declares it."""
Fn = Annotated[str, msgspec.Meta(pattern=FN_PATTERN, max_length=256)]
"""An identifier, dotted or with colons: `ensureDevice.check`, `error:timeout:openApp`."""

_NAME = re.compile(NAME_PATTERN)
_FN = re.compile(FN_PATTERN)


def is_name(said: object) -> bool:
    """Whether it may name an agent, or a signal: it can travel in an event and in a URL."""
    return isinstance(said, str) and _NAME.fullmatch(said) is not None


class EventType(StrEnum):
    """The kinds of events. NodeStarted and NodeFinished have a `name`, DebugTrace has a `fn`."""

    RUN_STARTED = "RunStarted"
    NODE_STARTED = "NodeStarted"
    DEBUG_TRACE = "DebugTrace"
    NODE_FINISHED = "NodeFinished"
    RUN_FINISHED = "RunFinished"


class Source(StrEnum):
    """The writer of an event (`api`, `worker`) or, on the wire, its sender (`outbox`, `replayer`)."""

    API = "api"
    WORKER = "worker"
    OUTBOX = "outbox"
    REPLAYER = "replayer"


class NewEvent(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """An event before it has a place in the log. Nothing but these three fields ever travels."""

    type: EventType
    name: NodeName | None = None
    fn: Fn | None = None

    def __post_init__(self) -> None:
        named = self.type in (EventType.NODE_STARTED, EventType.NODE_FINISHED)
        if named != (self.name is not None):
            raise ValueError(f"{self.type} {'needs' if named else 'takes no'} `name`")
        if (self.type is EventType.DEBUG_TRACE) != (self.fn is not None):
            raise ValueError(f"{self.type} {'takes no' if self.fn is not None else 'needs'} `fn`")


class Event(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """An event on the wire. `seq` is 1-based and dense per run, `ts` is epoch milliseconds of the append."""

    run_id: str
    seq: int
    ts: int
    type: EventType
    v: int
    source: Source
    name: str | None = None
    fn: str | None = None


def debug_trace(fn: str) -> NewEvent:
    """A DebugTrace. Raises InvalidRequest when `fn` is not an identifier, so a payload cannot slip in as one."""
    if not (isinstance(fn, str) and _FN.match(fn)):
        raise InvalidRequest("fn must be an identifier, dotted or with colons", code="invalid_fn")
    return NewEvent(EventType.DEBUG_TRACE, fn=plain(fn))


def error_trace(code: str, fn: str) -> NewEvent:
    """The DebugTrace of a failure, `error:<code>:<fn>`; a code that is not bounded snake_case becomes `exception`."""
    return debug_trace(f"error:{code_of(code)}:{fn}")


RUN_STARTED: Final = NewEvent(EventType.RUN_STARTED)
RUN_FINISHED: Final = NewEvent(EventType.RUN_FINISHED)


def node_started(name: str) -> NewEvent:
    return NewEvent(EventType.NODE_STARTED, name=name)


def node_finished(name: str) -> NewEvent:
    return NewEvent(EventType.NODE_FINISHED, name=name)


class StoredEvent(NamedTuple):
    """An event as the log holds it; its run is known from where it was read. `ts_us` is epoch microseconds."""

    seq: int
    ts_us: int
    type: str
    name: str | None
    fn: str | None

    def on_wire(self, run_id: str, *, source: Source = Source.OUTBOX) -> Event:
        """The event as clients see it."""
        return Event(run_id, self.seq, self.ts_us // 1000, EventType(self.type), VERSION, source, self.name, self.fn)


class WireEncoder:
    """Encodes the events of one run as JSON, the same bytes `msgspec.json.encode(event.on_wire(...))` would give.

    Names and fns are identifiers by the log's own rule, so nothing in them ever needs escaping.
    """

    __slots__ = ("head", "tail")

    def __init__(self, run_id: str, *, source: Source = Source.OUTBOX) -> None:
        self.head = f'{{"runId":"{run_id}","seq":'
        """The bytes before the seq."""
        self.tail = f'","v":{VERSION},"source":"{source.value}"'
        """The bytes after the type."""

    def json(self, event: StoredEvent) -> str:
        seq, ts_us, type_, name, fn = event
        head = f'{self.head}{seq},"ts":{ts_us // 1000},"type":"{type_}{self.tail}'
        if name is not None:
            return f'{head},"name":"{name}"}}'
        if fn is not None:
            return f'{head},"fn":"{fn}"}}'
        return head + "}"

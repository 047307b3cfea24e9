"""The form of a message on NATS: its subject and its bytes."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from runwire.bus import Published
from runwire.model.event import EventType, Fn, NodeName, StoredEvent
from runwire.model.run import checked_run_id

PREFIX: Final = "runwire.v1"
"""The prefix of every subject. The NATS user needs permission for `runwire.v1.>` and nothing else."""

_Seq = Annotated[int, msgspec.Meta(ge=1)]
_Event: TypeAlias = tuple[_Seq, int, EventType, NodeName | None, Fn | None]
_TraceParent = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f-]{1,64}$(?!\n)")]


class _Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    first_seq: _Seq
    last_seq: _Seq
    traceparent: _TraceParent | None
    events: list[_Event] | None


_decoder: Final = msgspec.msgpack.Decoder(_Message)
_encoder: Final = msgspec.msgpack.Encoder()


def subject_of(run_id: str) -> str:
    """The subject of a run, one token after the prefix; no two runs share one, and none is a pattern.

    `.` would separate tokens, so it is written `=`, which no run id has. Raises InvalidRequest for what is no run id.
    """
    return f"{PREFIX}.run.{checked_run_id(run_id).replace('.', '=')}"


def encoded(message: Published, *, at_most: int) -> bytes:
    """The message in MessagePack; without its events, as a mere hint, if it would exceed `at_most` bytes."""
    whole = _encoder.encode((message.first_seq, message.last_seq, message.traceparent, message.events))
    if len(whole) <= at_most:
        return whole
    return _encoder.encode((message.first_seq, message.last_seq, message.traceparent, None))


def decoded(run_id: str, data: bytes) -> Published:
    """The message of a run. Raises ValueError for anything else: names and fns go to clients as they are."""
    message = _decoder.decode(data)  # its errors are ValueErrors
    events = None if message.events is None else tuple([StoredEvent(*event) for event in message.events])
    return Published(run_id, message.first_seq, message.last_seq, events, message.traceparent)

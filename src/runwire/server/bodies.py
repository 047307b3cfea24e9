"""Bodies of requests and responses. The OpenAPI document derives from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from runwire.model.event import NAME_PATTERN, Event, NewEvent, NodeName
from runwire.model.labels import KEY_PATTERN, LABELS_MAX, VALUE_MAX_BYTES
from runwire.model.run import RUN_ID_PATTERN
from runwire.server.requests import SEQ_MAX

AgentName = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=128)]
# Not checked while decoding: a bad run id has a code of its own, wherever it stands.
RunId = Annotated[str, Meta(extra_json_schema={"pattern": RUN_ID_PATTERN, "minLength": 1, "maxLength": 128})]
# Sessions and labels, too, have codes of their own.
Session = RunId
Labels = Annotated[
    dict[str, str],
    Meta(
        extra_json_schema={
            "maxProperties": LABELS_MAX,
            "propertyNames": {"pattern": KEY_PATTERN},
            "additionalProperties": {"type": "string", "maxLength": VALUE_MAX_BYTES},
        }
    ),
]
Seq = Annotated[int, Meta(ge=0, le=SEQ_MAX)]


class StartRun(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A run to start. With `external` its orchestrator is the caller, who must append within `leaseSeconds`.

    `session` and `labels` are names to find the run by. They are no secrets: everybody who may read runs sees them.
    """

    agent: AgentName = "golden"
    run_id: RunId | None = None
    input: dict[str, Any] | None = None
    external: bool = False
    lease_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    session: Session | None = None
    labels: Labels | None = None


class StartAccepted(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The stored run. `fence` is a secret of the external orchestrator."""

    accepted: Literal[True] = True
    status: Literal["accepted"] = "accepted"
    run_id: RunId
    fence: Seq | UnsetType = UNSET


class AppendEvents(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A batch, stored as a whole or not at all. An empty batch renews the lease. RunFinished needs `outcome`."""

    events: list[NewEvent]
    if_seq: Seq | None = None
    outcome: Literal["finished", "failed", "cancelled"] | None = None


class EventsAppended(msgspec.Struct, frozen=True, rename="camel"):
    """The seqs the events got. With `cancelRequested` the orchestrator should end the run with outcome cancelled."""

    seqs: list[int]
    last_seq: int
    cancel_requested: bool


class SendSignal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signal's name, as the waiting node gave it."""

    name: NodeName


class EventsPage(msgspec.Struct, frozen=True, rename="camel"):
    """Published events in order. `hasMore`: ask again with `fromSeq` set to the last seq."""

    events: list[Event]
    has_more: bool


class StreamTicket(msgspec.Struct, frozen=True, rename="camel"):
    """A ticket that opens the stream of one run, as `?ticket=`, until `expiresAt` (epoch ms). Open streams go on."""

    ticket: str
    expires_at: int


class RunStateDocument(msgspec.Struct, frozen=True, rename="camel"):
    """A run's state at its last checkpoint, after event `seq`; null before the first."""

    run_id: RunId
    seq: int
    state: msgspec.Raw


def deep(value: object, *, limit: int) -> bool:
    """Whether JSON is nested more than `limit` levels."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(value, (dict, list)) for value in level)

"""Bodies of requests and responses. The OpenAPI document derives from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from runwire.model.content import Artifact
from runwire.model.event import NAME_PATTERN, Event, NewEvent, NodeName
from runwire.model.labels import KEY_PATTERN, LABELS_MAX, VALUE_MAX_BYTES
from runwire.model.run import RUN_ID_PATTERN
from runwire.orchestrate.settings import DEFAULTS
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
SignalId = Annotated[str, Meta(pattern=RUN_ID_PATTERN, min_length=1, max_length=128)]


class StartRun(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A run to start. With `external` its orchestrator is the caller, who must append within `leaseSeconds`.

    `session` and `labels` are names to find the run by. They are no secrets: everybody who may read runs sees them.
    """

    agent: AgentName = "golden"
    run_id: RunId | None = None
    input: dict[str, Any] | None = None
    external: bool = False
    lease_seconds: Annotated[float, Meta(ge=1, le=3600)] = DEFAULTS.lease_s
    session: Session | None = None
    labels: Labels | None = None


class StartAccepted(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The stored run. `fence` is a secret of the external orchestrator."""

    accepted: Literal[True] = True
    status: Literal["accepted"] = "accepted"
    run_id: RunId
    fence: Seq | UnsetType = UNSET


class AppendEvents(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A batch, stored as a whole or not at all. An empty batch renews the lease. RunFinished needs `outcome`.

    `signalsTaken` acknowledges the run's signals up to that `n`, once the batch is stored.
    """

    events: list[NewEvent]
    if_seq: Seq | None = None
    outcome: Literal["finished", "failed", "cancelled"] | None = None
    signals_taken: Seq = 0


class SignalForRun(msgspec.Struct, frozen=True, rename="camel"):
    """A signal for an external run. `n` counts the signals of the run. `data` is absent for a signal without any.

    `withheld`: there is data, and the caller lacks the scope `content:read`.
    """

    n: Seq
    name: NodeName
    data: Annotated[msgspec.Raw, Meta(extra_json_schema={"description": "Any JSON."})] | UnsetType = UNSET
    id: SignalId | UnsetType = UNSET
    withheld: Literal[True] | UnsetType = UNSET


class EventsAppended(msgspec.Struct, frozen=True, rename="camel"):
    """The seqs the events got. With `cancelRequested` the orchestrator should end the run with outcome cancelled.

    `signals` are those that it has not acknowledged with `signalsTaken`, oldest first. Each comes until then.
    """

    seqs: list[int]
    last_seq: int
    cancel_requested: bool
    signals: list[SignalForRun] | UnsetType = UNSET


class OpenPart(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part to open. `mediaType` is that of its bytes."""

    name: Annotated[str, Meta(max_length=64)]
    media_type: Annotated[str, Meta(max_length=128)] = "text/plain"


class PartDocument(msgspec.Struct, frozen=True, rename="camel"):
    """A part of a run. `part` is its number, `attempt` counts from 1, `size` is in bytes."""

    part: int
    name: str
    media_type: str
    attempt: int
    state: Literal["open", "sealed", "abandoned"]
    size: int


class PartList(msgspec.Struct, frozen=True):
    """The parts of a run by number."""

    parts: list[PartDocument]


class SendSignal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signal's name, as the waiting node gave it. `data` is any JSON, at most 64 KiB, for the node that goes on.

    With an `id` the request may be repeated: the run gets the signal once.
    """

    name: NodeName
    data: Annotated[msgspec.Raw, Meta(extra_json_schema={"description": "Any JSON."})] | UnsetType = UNSET
    id: SignalId | None = None


class AcceptedSignal(msgspec.Struct, frozen=True):
    """A signal that the run may wait for. `schema` is the JSON Schema of its data; absent where any data fits."""

    name: NodeName
    schema: dict[str, Any] | UnsetType = UNSET


class StoredSignal(msgspec.Struct, frozen=True, rename="camel"):
    """A signal that the run has not taken. `data` is absent for a signal without any. `sentAt` is in epoch ms.

    `withheld`: there is data, and the caller lacks the scope `content:read`, or the signals before it have 256 KiB.
    """

    n: Seq
    name: NodeName
    sent_at: int
    data: Annotated[msgspec.Raw, Meta(extra_json_schema={"description": "Any JSON."})] | UnsetType = UNSET
    id: SignalId | UnsetType = UNSET
    withheld: Literal[True] | UnsetType = UNSET


class SignalsDocument(msgspec.Struct, frozen=True, rename="camel"):
    """The signals of a run: those for which it waits now, those that it `accepts`, those `notTaken`, oldest first.

    With `acceptsOthers` it accepts every name, because nothing here says for what its nodes may wait.
    """

    run_id: RunId
    waiting_for: list[str]
    waiting_until: int | None
    accepts: list[AcceptedSignal]
    accepts_others: bool
    not_taken: list[StoredSignal]


class EventsPage(msgspec.Struct, frozen=True, rename="camel"):
    """Published events in order. `hasMore`: ask again with `fromSeq` set to the last seq."""

    events: list[Event]
    has_more: bool


class ArtifactPage(msgspec.Struct, frozen=True, rename="camel"):
    """The artifacts of a run in order, erased ones among them."""

    artifacts: list[Artifact]


class StreamTicket(msgspec.Struct, frozen=True, rename="camel"):
    """A ticket that opens the stream of one run, as `?ticket=`, until `expiresAt` (epoch ms). Open streams go on."""

    ticket: str
    expires_at: int


class RunStateDocument(msgspec.Struct, frozen=True, rename="camel"):
    """A run's state at its last checkpoint, after event `seq`. Before the first, with `seq` 0, the one that it begins
    with. null for an external run, whose state is elsewhere.
    """

    run_id: RunId
    seq: int
    state: msgspec.Raw

"""runwire: a durable, observable event pipeline for agent runs."""

from typing import TYPE_CHECKING, Any

from runwire.errors import NodeFailed, RunwireError
from runwire.model.content import Artifact
from runwire.model.event import Event, EventType, NewEvent
from runwire.model.graph import END, Agent, Context, PartInProgress, Signal, Sleep, Wait
from runwire.model.run import RunState

if TYPE_CHECKING:
    from runwire.client import (
        AcceptedSignal,
        Appended,
        Client,
        Diagnosis,
        Download,
        EventPage,
        ManyRunsStream,
        MixedStream,
        NextStep,
        PartInfo,
        PartPiece,
        PartStream,
        PartWriter,
        ReceivedSignal,
        RunSignals,
        RunStream,
        RunView,
        ServerProblem,
        ServerUnreachable,
        StartedRun,
        StoredSignal,
        StoredState,
        StreamBroken,
        StreamEnd,
        StreamTicket,
        UnexpectedAnswer,
    )

__version__ = "0.1.0"

__all__ = [
    "END",
    "AcceptedSignal",
    "Agent",
    "Appended",
    "Artifact",
    "Client",
    "Context",
    "Diagnosis",
    "Download",
    "Event",
    "EventPage",
    "EventType",
    "ManyRunsStream",
    "MixedStream",
    "NewEvent",
    "NextStep",
    "NodeFailed",
    "PartInProgress",
    "PartInfo",
    "PartPiece",
    "PartStream",
    "PartWriter",
    "ReceivedSignal",
    "RunSignals",
    "RunState",
    "RunStream",
    "RunView",
    "RunwireError",
    "ServerProblem",
    "ServerUnreachable",
    "Signal",
    "Sleep",
    "StartedRun",
    "StoredSignal",
    "StoredState",
    "StreamBroken",
    "StreamEnd",
    "StreamTicket",
    "UnexpectedAnswer",
    "Wait",
    "__version__",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """A name of the client, imported when asked for: an HTTP client is nothing an agent's module needs."""
    if name in __all__:
        from runwire import client  # noqa: PLC0415  # see above

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The asyncio client: `async with Client(url) as client`, then start runs and follow their events exactly once."""

from runwire.client.client import Client
from runwire.client.content import Download
from runwire.client.many import ManyRunsStream
from runwire.client.part import PartStream
from runwire.client.part_writer import PartWriter
from runwire.client.problems import ServerProblem, ServerUnreachable, UnexpectedAnswer
from runwire.client.results import (
    AcceptedSignal,
    Appended,
    Diagnosis,
    EventPage,
    NextStep,
    PartInfo,
    ReceivedSignal,
    RunPage,
    RunSignals,
    RunView,
    StartedRun,
    StoredSignal,
    StoredState,
    StreamEnd,
    StreamTicket,
)
from runwire.client.sse import EventTooLong, ServerEvent, SseParser
from runwire.client.stream import MixedStream, PartPiece, RunStream, StreamBroken
from runwire.model.content import Artifact

__all__ = [
    "AcceptedSignal",
    "Appended",
    "Artifact",
    "Client",
    "Diagnosis",
    "Download",
    "EventPage",
    "EventTooLong",
    "ManyRunsStream",
    "MixedStream",
    "NextStep",
    "PartInfo",
    "PartPiece",
    "PartStream",
    "PartWriter",
    "ReceivedSignal",
    "RunPage",
    "RunSignals",
    "RunStream",
    "RunView",
    "ServerEvent",
    "ServerProblem",
    "ServerUnreachable",
    "SseParser",
    "StartedRun",
    "StoredSignal",
    "StoredState",
    "StreamBroken",
    "StreamEnd",
    "StreamTicket",
    "UnexpectedAnswer",
]

"""The asyncio client: `async with Client(url) as client`, then start runs and follow their events exactly once."""

from runwire.client.client import Client
from runwire.client.content import Download
from runwire.client.many import ManyRunsStream
from runwire.client.problems import ServerProblem, ServerUnreachable, UnexpectedAnswer
from runwire.client.results import (
    Appended,
    Diagnosis,
    EventPage,
    NextStep,
    ReceivedSignal,
    RunPage,
    RunView,
    StartedRun,
    StoredState,
    StreamEnd,
    StreamTicket,
)
from runwire.client.sse import EventTooLong, ServerEvent, SseParser
from runwire.client.stream import MixedStream, PartPiece, RunStream, StreamBroken
from runwire.model.content import Artifact

__all__ = [
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
    "PartPiece",
    "ReceivedSignal",
    "RunPage",
    "RunStream",
    "RunView",
    "ServerEvent",
    "ServerProblem",
    "ServerUnreachable",
    "SseParser",
    "StartedRun",
    "StoredState",
    "StreamBroken",
    "StreamEnd",
    "StreamTicket",
    "UnexpectedAnswer",
]

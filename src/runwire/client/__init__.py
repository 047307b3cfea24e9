"""The asyncio client: `async with Client(url) as client`, then start runs and follow their events exactly once."""

from runwire.client.client import Client
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
from runwire.client.stream import RunStream, StreamBroken

__all__ = [
    "Appended",
    "Client",
    "Diagnosis",
    "EventPage",
    "EventTooLong",
    "NextStep",
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

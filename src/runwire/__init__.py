"""runwire: a durable, observable event pipeline for agent runs."""

from runwire.errors import NodeFailed, RunwireError
from runwire.model.event import Event, EventType
from runwire.model.graph import END, Agent, Context, Wait
from runwire.model.run import RunState

__version__ = "0.1.0"

__all__ = [
    "END",
    "Agent",
    "Context",
    "Event",
    "EventType",
    "NodeFailed",
    "RunState",
    "RunwireError",
    "Wait",
    "__version__",
]

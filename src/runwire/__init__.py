"""runwire: a durable, observable event pipeline for agent runs."""

from typing import TYPE_CHECKING, Any

from runwire.errors import NodeFailed, RunwireError
from runwire.model.event import Event, EventType
from runwire.model.graph import END, Agent, Context, Wait
from runwire.model.run import RunState

if TYPE_CHECKING:
    from runwire.client import Client

__version__ = "0.1.0"

__all__ = [
    "END",
    "Agent",
    "Client",
    "Context",
    "Event",
    "EventType",
    "NodeFailed",
    "RunState",
    "RunwireError",
    "Wait",
    "__version__",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """`runwire.Client`, imported when asked for: an HTTP client is nothing an agent's module needs."""
    if name == "Client":
        from runwire.client import Client  # noqa: PLC0415  # see above

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Orchestrate: start runs, walk their graphs, and keep exactly one owner for each."""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.orchestrate.cancelling import Cancelling
    from runwire.orchestrate.control import RunControl
    from runwire.orchestrate.external import ExternalRuns, LeaseReaper, ReceivedSignal
    from runwire.orchestrate.external_parts import ExternalParts
    from runwire.orchestrate.node_parts import PartDesk, PartLimits
    from runwire.orchestrate.run_view import RunFilter, RunOrder, RunPage, RunView
    from runwire.orchestrate.seat import Seat
    from runwire.orchestrate.signalling import SignalsOfRun
    from runwire.orchestrate.starting import Started, StartRequest
    from runwire.orchestrate.worker import Worker
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Cancelling",
    "ExternalParts",
    "ExternalRuns",
    "LeaseReaper",
    "PartDesk",
    "PartLimits",
    "ReceivedSignal",
    "RunControl",
    "RunFilter",
    "RunOrder",
    "RunPage",
    "RunView",
    "Seat",
    "SignalsOfRun",
    "StartRequest",
    "Started",
    "Worker",
]

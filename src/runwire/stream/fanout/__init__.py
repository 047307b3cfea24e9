"""Fan-out: the same bytes to many clients.

`Fanout` is one run's: `send(piece)`, `join`, `leave`, `idle()`. All fan-outs of a process share a `Scheduler`, and that
has a `Sender`.
"""

from runwire.stream.fanout.fanout import Fanout
from runwire.stream.fanout.followers import Follower
from runwire.stream.fanout.outlet import Outlet
from runwire.stream.fanout.pacing import Pacing
from runwire.stream.fanout.scheduler import Deliveries, Queued, Scheduler
from runwire.stream.fanout.sender import LoopSender, Sender, ThreadSender, open_sender

__all__ = [
    "Deliveries",
    "Fanout",
    "Follower",
    "LoopSender",
    "Outlet",
    "Pacing",
    "Queued",
    "Scheduler",
    "Sender",
    "ThreadSender",
    "open_sender",
]

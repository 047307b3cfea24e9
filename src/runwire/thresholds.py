"""Thresholds of the service, in seconds: from alerts/thresholds.yaml, by `runwire ops render`."""

from typing import Final

UNPUBLISHED_S: Final = 5.0
"""Oldest unpublished event. The sweep finds any event within 1 s; five of them in a row have missed this one."""

PUBLISHER_DEAD_S: Final = 15.0
"""Publisher heartbeat age. It beats every 2 s. Nothing is published while it is away."""

OBSERVER_STALE_S: Final = 30.0
"""Time since the observer looked at everything. It looks every 5 s. Without it nobody hears of a gap or of a dead
publisher."""

RUN_EXPECTED_S: Final = 600.0
"""A run of an agent that declares no `expected_s`. The SLO's limit for a run; nodes end after 10 s, and leases after 30
s."""

UNCLAIMED_S: Final = 5.0
"""A pending run that no worker has claimed. Workers look every second."""

UNPUBLISHED_YET_S: Final = 1.0
"""An event that is stored and not published, of which nobody can say yet whether it is well. The publisher's sweep
finds any event within a second."""

NODE_GRACE_S: Final = 5.0
"""A node beyond its timeout. Its worker cuts it then, and needs a moment to."""

EXTERNAL_NODE_S: Final = 60.0
"""An external orchestrator's node. It declares no timeout; six times the usual one."""

PUBLISHER_SILENT_S: Final = 6.0
"""A publisher that has not said that it lives. More than the longest period of its heartbeat. It may be dead."""

LOCK_WAIT_S: Final = 1.0
"""An append that waits for a lock. It does not wait for another append for so long."""

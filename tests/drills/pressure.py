"""Whether the machine has CPU to spare, as its kernel tells (Linux, pressure stall information), and what if not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

BUSY: Final = 0.5
"""Share of the time in which something waited for a CPU: with more a machine is busy."""

LAGS: Final = ("PublishLagWarning", "PublishLagCritical", "PublishLagPage")
PUBLISH_BURNS: Final = ("PublishSloFastBurn", "PublishSloSlowBurn", "DeliverySloFastBurn", "DeliverySloSlowBurn")
START_BURNS: Final = ("StartSloFastBurn", "StartSloSlowBurn")
RUN_BURNS: Final = ("RunSloFastBurn", "RunSloSlowBurn")
OF_A_BUSY_MACHINE: Final = frozenset(
    {*LAGS, *PUBLISH_BURNS, *START_BURNS, *RUN_BURNS}
    | {
        "PublisherDown",
        "ObserverStale",
        "TargetDown",
        "ApiDown",
        "SseHeartbeatMissed",
        "TelemetryDropped",
        "RoleUnwell",
        "ReadinessLost",
    }
    | {"RunsUnclaimed", "CanaryFailing", "ClockSkew"}
)
"""Further alerts that a lack of CPU may cause: of late events, late scrapes and heartbeats, a late collector, a worker
that has no time to claim, and statements past their time limit, which is short here. On a virtual machine that stood
still the clock is set, and processes learn of it one after the other. Each has a drill; that it comes in
the middle of another says nothing about that one.
"""


class CpuWaits:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._began, self._waited = time.monotonic(), _waited_s()

    @property
    def share(self) -> float:
        """Of the time so far, the share in which something that could run waited for a CPU."""
        return (_waited_s() - self._waited) / (time.monotonic() - self._began)


def _waited_s() -> float:
    try:
        pressure = Path("/proc/pressure/cpu").read_text()
    except OSError:  # a kernel that does not tell: then it counts as busy
        return time.monotonic()
    return int(pressure.splitlines()[0].rpartition("total=")[2]) / 1e6

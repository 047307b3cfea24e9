"""Settings of workers, and of starting runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydantic import Field

from runwire.settings_group import SettingsGroup


class OrchestrateSettings(SettingsGroup):
    """Settings of workers, and of starting runs."""

    state_max_bytes: int = Field(
        1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Largest state of a run in bytes of JSON. A node that leaves more fails with `state_too_large`.",
    )
    worker_threads: int = Field(32, ge=1, le=1000, description="Threads of a worker for nodes that are not `async`.")
    worker_concurrency: int = Field(200, ge=1, le=10_000, description="Most runs that one worker walks at once.")
    worker_poll_s: float = Field(1.0, gt=0, le=60, description="Period of the safety poll for claimable runs.")
    lease_s: float = Field(30.0, gt=0, description="Seconds for which a claim on a run holds without a heartbeat.")
    lease_heartbeat_s: float = Field(10.0, gt=0, description="Period of the worker's heartbeat.")
    losses_max: int = Field(
        3,
        ge=2,
        le=100,
        description="Workers that may die during a run, one after the other, before the run fails with `worker_lost`.",
    )
    runs_open_max: int = Field(100_000, ge=0, description="Most open runs. The service refuses further starts.")

    def problems(self) -> Iterable[str]:
        if self.lease_heartbeat_s >= self.lease_s:
            yield "lease_heartbeat_s must be shorter than lease_s"


DEFAULTS: Final = OrchestrateSettings()

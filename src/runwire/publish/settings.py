"""Settings of the publisher."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from runwire.settings_group import SettingsGroup
from runwire.thresholds import PUBLISHER_DEAD_S


class PublishSettings(SettingsGroup):
    """Settings of the publisher."""

    publish_batch_events: int = Field(2000, ge=1, le=20_000, description="Most events in one publish step.")
    publish_batch_runs: int = Field(200, ge=1, le=5_000, description="Most runs in one publish step.")
    publish_sweep_s: float = Field(1.0, gt=0, le=60, description="Period of the safety sweep for unpublished events.")
    publish_heartbeat_s: float = Field(
        2.0,
        gt=0,
        le=5,
        description=f"Period of a publisher's heartbeat. A publisher counts as dead after {PUBLISHER_DEAD_S:g} s.",
    )
    publish_lease_s: float = Field(
        4.0, ge=0.5, le=60, description="Seconds for which a publisher that hangs keeps its share of the runs."
    )
    publish_backoff_max_s: float = Field(5.0, gt=0, description="Longest pause after the bus or the database failed.")


DEFAULTS: Final = PublishSettings()

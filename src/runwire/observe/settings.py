"""Settings of the observer."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from runwire.settings_group import SettingsGroup
from runwire.thresholds import OBSERVER_STALE_S


class ObserverSettings(SettingsGroup):
    """Settings of the observer."""

    observe_s: float = Field(
        5.0,
        gt=0,
        le=10,
        description=f"Period at which the observer reads the database; stale after {OBSERVER_STALE_S:g} s.",
    )
    database_max_bytes: int = Field(
        0,
        ge=0,
        description="Bytes that the database may take, such as the size of its disk. `DatabaseUnwell` pages when "
        "nearly all are taken; 0: no limit is known.",
    )


DEFAULTS: Final = ObserverSettings()

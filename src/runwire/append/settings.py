"""Settings of the log."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from runwire.settings_group import SettingsGroup


class AppendSettings(SettingsGroup):
    """Settings of the log."""

    append_connections: int = Field(
        2, ge=1, le=16, description="Connections that write events; all are used under load."
    )
    append_batch_max: int = Field(512, ge=1, le=8192, description="Appends that may share one commit.")
    append_queue_max: int = Field(20_000, ge=1, description="Appends that may wait. The service refuses more.")


DEFAULTS: Final = AppendSettings()

"""Settings of logs and traces."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from runwire.settings_group import SettingsGroup


class TelemetrySettings(SettingsGroup):
    """Settings of logs and traces."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log level.")
    log_format: Literal["json", "console"] = Field("json", description="Format of log lines.")
    trace_sample_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of runs that are traced when the caller does not decide."
    )
    telemetry: bool = Field(default=True, description="Make spans. Off: none, whatever OTEL_* say.")


DEFAULTS: Final = TelemetrySettings()

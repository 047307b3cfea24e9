"""Settings of content."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from runwire.settings_group import SettingsGroup


class ContentSettings(SettingsGroup):
    """Settings of content."""

    content_url: str | None = Field(
        None,
        description="URL of the content store, for content above 256 KiB: a folder, `s3://bucket/prefix`, `gs://...`, "
        "`az://...`. Default: the folder `content` in the data directory; with database_url set, only if data_dir is, "
        "too.",
    )
    artifact_max_bytes: int = Field(
        104_857_600, ge=1024, le=5 * 1024**3, description="Largest artifact in bytes. The service refuses a larger one."
    )
    artifacts_per_run_max: int = Field(1000, ge=0, description="Most artifacts of one run; 0 is no bound.")
    content_tenant_max_bytes: int = Field(0, ge=0, description="Most bytes of content of one tenant; 0 is no bound.")
    content_keep_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description="Days after the end of its run for which content is kept; 0: as long as its run.",
    )
    content_grace_s: float = Field(
        3600.0, ge=1, description="Seconds for which bytes may lack an artifact before the collector deletes them."
    )
    content_collect_s: float = Field(60.0, gt=0, description="Period of the collector.")
    content_patience_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="Seconds that the content store may take for an operation, besides a second for each MiB.",
    )

    parts_per_run_max: int = Field(100, ge=0, le=10_000, description="Most parts of one run.")
    part_bytes_max: int = Field(16 * 1024 * 1024, ge=1024, description="Largest part in bytes.")
    part_bytes_per_s: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        description="Bytes per second that may be written to one part. A faster node waits. Faster requests get 429.",
    )
    part_linger_ms: float = Field(
        20.0, ge=0, le=1000, description="Shortest time between two commits of parts, which gathers small writes."
    )

    @property
    def content(self) -> str | None:
        """The content store's URL, with the default filled in; None without one."""
        return self.content_url


DEFAULTS: Final = ContentSettings()

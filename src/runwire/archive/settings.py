"""Settings of the archive."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from runwire.settings_group import SettingsGroup


class ArchiveSettings(SettingsGroup):
    """Settings of the archive."""

    archive_url: str | None = Field(
        None,
        description="URL of the archive: a folder, `s3://bucket/prefix`, `gs://...`, `az://...`. "
        "Default: with an embedded database the folder `archive` in the data directory, else no archive.",
    )
    archive_after_days: int = Field(
        30, ge=0, le=36_500, description="Days between a run's end and its archiving; 0 archives no run."
    )
    archive_period_s: float = Field(
        21_600.0, gt=0, description="Period at which the archiver looks for runs that are due."
    )
    archive_batch_runs: int = Field(20_000, ge=1, le=100_000, description="Runs in one file of the archive.")
    archive_batch_events: int = Field(
        1_000_000, ge=1, description="Events in one file of the archive. A longer run has a file of its own."
    )

    @property
    def archive(self) -> str | None:
        """The archive's URL, with the default filled in; None without an archive."""
        return self.archive_url

    @property
    def archives(self) -> bool:
        """Whether this process or another archives runs."""
        return self.archive is not None and self.archive_after_days > 0


DEFAULTS: Final = ArchiveSettings()

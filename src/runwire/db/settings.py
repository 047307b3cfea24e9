"""Settings of the database."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import platformdirs
from pydantic import AliasChoices, Field, field_validator

from runwire.postgres_url import understood
from runwire.settings_group import SettingsGroup

NO_HOME: Final = Path("/nonexistent/runwire")
"""The data directory of a user without a home: nothing can be created there."""


class DatabaseSettings(SettingsGroup):
    """Settings of the database."""

    database_direct_url: str | None = Field(
        None,
        description="Direct URL of PostgreSQL when `database_url` is a pooler in transaction mode such as PgBouncer: "
        "for LISTEN, leases, migrations and the few connections that append and publish.",
    )
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("RUNWIRE_DATABASE_URL", "DATABASE_URL"),
        description="URL of PostgreSQL. Without it, runwire starts an embedded PostgreSQL in the data directory.",
    )
    data_dir: Path = Field(
        default_factory=lambda: _user_data_dir(),  # noqa: PLW0108  # defined below
        description="Data directory of the embedded PostgreSQL.",
    )
    db_pool_size: int = Field(10, ge=2, le=500, description="Connections for reads and control statements.")
    db_timeout_s: float = Field(10.0, gt=0, description="Seconds that one control statement may take.")
    db_read_timeout_s: float = Field(5.0, gt=0, description="Seconds that reading one page of a list of runs may take.")
    partition_days_ahead: int = Field(7, ge=1, le=90, description="Days ahead for which event partitions are created.")

    @property
    def session_url(self) -> str | None:
        """The database URL for work that needs a session of its own: past the pooler, if there is one."""
        return self.database_direct_url or self.database_url

    @field_validator("database_direct_url", "database_url")
    @classmethod
    def _url_is_understood(cls, value: str | None, info: Any) -> str | None:
        pooled = info.field_name == "database_url" and info.data.get("database_direct_url") is not None
        return None if value is None else understood(value, pooled=pooled)

    def problems(self) -> Iterable[str]:
        if self.database_url is None and self.data_dir == NO_HOME:
            yield (
                "this user has no home directory: set data_dir to a directory for the embedded PostgreSQL, "
                "or database_url to the PostgreSQL to use"
            )
        if self.database_direct_url is not None and self.database_url is None:
            yield "database_direct_url needs database_url, the URL of the pooler"


def _user_data_dir() -> Path:
    try:
        return platformdirs.user_data_path("runwire")
    except RuntimeError:  # neither HOME nor XDG_DATA_HOME, and a uid without a name
        return NO_HOME


DEFAULTS: Final = DatabaseSettings.model_construct()
"""Unchecked: a user without a home directory has no data directory, and needs none for another database."""

"""Every setting of a runwire process. Flags, environment variables and the table in the docs derive from one class.

Each stage owns a group of settings, in its own `settings.py`, and is passed that group whole. `Settings` is all groups
at once: it reads the environment, and fills in the defaults that depend on settings of several groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from runwire.agents.settings import AgentSettings
from runwire.append.settings import AppendSettings
from runwire.archive.settings import ArchiveSettings
from runwire.bus.kinds import KINDS
from runwire.bus.settings import BusSettings
from runwire.content.settings import ContentSettings
from runwire.db.settings import DatabaseSettings
from runwire.dsn import redact_dsn
from runwire.duties import Role
from runwire.errors import ConfigurationError
from runwire.observe.settings import ObserverSettings
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.process.settings import ProcessSettings
from runwire.publish.settings import PublishSettings
from runwire.server.addresses import is_loopback
from runwire.server.settings import ServerSettings
from runwire.stream.settings import StreamSettings
from runwire.telemetry.settings import TelemetrySettings

__all__ = ["Role", "Settings", "load_settings"]

_ENV: Final = "RUNWIRE_"
_ADDRESSES: Final = ("database_url", "database_direct_url", "bus")
"""Settings that may hold a password."""
_PIPELINE: Final = frozenset({Role.API, Role.WORKER, Role.PUBLISHER})


class Settings(  # the last group comes first in the docs
    TelemetrySettings,
    StreamSettings,
    OrchestrateSettings,
    ContentSettings,
    ArchiveSettings,
    ObserverSettings,
    PublishSettings,
    AppendSettings,
    BusSettings,
    DatabaseSettings,
    AgentSettings,
    ProcessSettings,
    ServerSettings,
    BaseSettings,
):
    """Settings, read from `RUNWIRE_*` environment variables and overridden by flags. Durations carry their unit."""

    model_config = SettingsConfigDict(
        env_prefix=_ENV,
        env_ignore_empty=True,  # `DATABASE_URL=` in a compose file means no URL
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    @property
    def bus_name(self) -> str:
        """The bus in use, by its name, with the default filled in. It is safe to log."""
        alone = self.database_url is None and set(self.roles) >= _PIPELINE
        return super().bus_name if self.bus is not None or alone else "postgres"

    @property
    def archive(self) -> str | None:
        """The archive's URL, with the default filled in; None without an archive."""
        alone = self.archive_url is None and self.database_url is None
        return str(self.data_dir / "archive") if alone else super().archive

    @property
    def content(self) -> str | None:
        """The content store's URL, with the default filled in; None without one."""
        if self.content_url is not None:
            return self.content_url
        if self.database_url is not None and "data_dir" not in self.model_fields_set:
            return None  # other hosts would look for it in a folder of their own
        return str(self.data_dir / "content")

    @property
    def explore_networks(self) -> tuple[str, ...]:
        """`explore_allow`, with the default filled in."""
        if self.explore_allow is not None:
            return self.explore_allow
        own_machine = Role.API in self.roles and is_loopback(self.host) and not self.authenticates
        return ("127.0.0.0/8", "::1/128") if own_machine else ()

    def problems(self) -> Iterable[str]:
        if self.bus is not None and KINDS[self.bus_name].one_process and not set(self.roles) >= _PIPELINE:
            yield f"the {self.bus_name} bus needs api, worker and publisher in this process: set bus to postgres"
        if Role.ARCHIVER in self.roles and "roles" in self.model_fields_set and self.archive is None:
            yield "the role archiver needs archive_url: with database_url set there is no default"

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields that `repr` shows: addresses without their passwords, and no key or secret."""
        for name, value in super().__repr_args__():
            yield name, redact_dsn(value) if name in _ADDRESSES and value is not None else value


def load_settings(**flags: Any) -> Settings:
    """Settings from the environment, overridden by the flags that are not None.

    Raises ConfigurationError naming every problem at once.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(tuple(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"][:1])
    text = str(problem["msg"]).removeprefix("Value error, ")
    name = field if field.startswith((_ENV, "DATABASE")) else f"{_ENV}{field.upper()}"
    return f"{name}: {text}" if field else text

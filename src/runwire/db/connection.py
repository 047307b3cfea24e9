"""Opens connections with the settings that our statements rely on, and reports a failure by the connection's name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import asyncpg
import structlog

from runwire.db.translation import TOO_MANY_CONNECTIONS, translated
from runwire.db.troubles import Troubles
from runwire.duties import Duty
from runwire.errors import DatabaseUnavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ISOLATION: Final = "read_committed"
"""Session settings that our statements rely on. They override defaults of the server, the database and the role."""
BASE_SETTINGS: Final[Mapping[str, str]] = {"jit": "off", "timezone": "UTC"}
SESSION_SETTINGS: Final[Mapping[str, str]] = {**BASE_SETTINGS, "default_transaction_isolation": "read committed"}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Door:
    """Opens connections of one name. `on_full` is called when the server, or the role, has no room for another."""

    dsn: str
    name: str
    timeout_s: float
    settings: Mapping[str, str]
    troubles: Troubles
    on_full: Callable[[], None] = lambda: None
    how: Mapping[str, Any] = field(default_factory=dict)

    async def open(self) -> Connection:
        """Raises DatabaseUnavailable; that this connection is missing is then a trouble until the next one is open."""
        try:
            connection = await self.connect()
        except DatabaseUnavailable as error:
            self.failed(error)
            raise
        self.well()
        return connection

    async def connect(self) -> Connection:
        """As `open`, without reporting a failure."""
        with translated:
            connection: Connection = await asyncpg.connect(
                self.dsn,
                server_settings={"application_name": f"runwire {self.name}", **self.settings},
                command_timeout=self.timeout_s,
                timeout=self.timeout_s,
                **self.how,
            )
        return connection

    def failed(self, error: DatabaseUnavailable) -> None:
        """Another connection takes precedence here."""
        if self.troubles.begin(Duty.CONNECT, str(error), about=self.name):
            _log.warning(
                "database_unavailable",
                doing=Duty.CONNECT.value,
                connection=self.name,
                code=error.code,
                why=str(error),
            )
        if error.sqlstate == TOO_MANY_CONNECTIONS:
            self.on_full()

    def well(self) -> None:
        """Ends the trouble: the connection is open, or no longer needed."""
        if self.troubles.end(Duty.CONNECT, about=self.name):
            _log.info("database_recovered", doing=Duty.CONNECT.value, connection=self.name)


def cut(connection: Connection) -> None:
    """Ends a connection and its statement at once. Does nothing if the connection has ended."""
    with contextlib.suppress(Exception):
        connection.terminate()

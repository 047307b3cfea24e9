"""One migration: a numbered SQL file. It separates the part for a transaction from indexes built concurrently."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Final

_SERVES: Final = re.compile(r"^-- serves: (\d{4})$", re.MULTILINE)
_INDEX: Final = re.compile(r"^CREATE INDEX (\w+)\s+ON (\w+)\b([^;]*);[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a migration, but never a unique one, because later code relies on those."""

    name: str
    table: str
    definition: str

    @property
    def sql(self) -> str:
        """Builds it without blocking writes to the table. Not to be run in a transaction."""
        return f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {self.name} ON {self.table}{self.definition}"


@dataclass(frozen=True)
class Migration:
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def serves(self) -> str | None:
        """The number of the oldest migration whose code can go on after this one; None: only this one's own."""
        found = _SERVES.search(self.sql)
        return found[1] if found else None

    @cached_property
    def indexes(self) -> tuple[Index, ...]:
        """Its plain `CREATE INDEX` statements, each at the start of a line."""
        return tuple(Index(*found.groups()) for found in _INDEX.finditer(self.sql))

    def without(self, indexes: tuple[Index, ...]) -> str:
        """Its SQL without these indexes."""
        left_out = {index.name for index in indexes}
        return _INDEX.sub(lambda found: "" if found[1] in left_out else found[0], self.sql)


def migrations() -> tuple[Migration, ...]:
    """Every migration this version ships, oldest first."""
    folder = files("runwire.db").joinpath("migrations")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(
        Migration(entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in sorted(found, key=lambda entry: entry.name)
    )

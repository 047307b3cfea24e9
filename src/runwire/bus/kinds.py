"""The registry of buses. A new bus is a module of this folder with `open_bus`, and its entry in KINDS.

Settings, assembly, doctor and the docs take from the entry what they know of a bus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runwire.bus.nats_servers import nats_servers


@dataclass(frozen=True, slots=True, kw_only=True)
class BusKind:
    """A bus. Its modules are imported when they are used, since its client may be an extra."""

    module: str
    """The module with `open_bus`."""
    named: str
    """How `RUNWIRE_BUS` names it."""
    about: str
    """The same, for the table of settings."""
    schemes: tuple[str, ...] = ()
    """Schemes of the URLs that name it. Without any, its name does."""
    check: Callable[[str], object] = str
    """Raises ValueError for a URL of these schemes that is wrong. Its text has no secret."""
    one_process: bool = False
    """It carries messages within one process only."""
    examiner: str | None = None
    """The module with `examine_bus` for `runwire doctor`."""


KINDS: Final[dict[str, BusKind]] = {
    "memory": BusKind(
        module="runwire.bus.memory",
        named="`memory`",
        about="`memory` (one process)",
        one_process=True,
    ),
    "postgres": BusKind(
        module="runwire.bus.postgres",
        named="`postgres`",
        about="`postgres` (LISTEN/NOTIFY between processes)",
    ),
    "nats": BusKind(
        module="runwire.bus.nats",
        named="`nats://host[:port]`",
        about="the servers of a NATS cluster: `nats://[user:password@]host[:port][,host2...]`, `tls://...`",
        schemes=("nats", "tls"),
        check=nats_servers,
        examiner="runwire.bus.nats_check",
    ),
}


def kind_named(value: str) -> str:
    """The name of the bus that a value of `RUNWIRE_BUS` names. Raises ValueError, whose text has no secret."""
    scheme, separator, _ = value.partition("://")
    for name, kind in KINDS.items():
        if value == name and not kind.schemes:
            return name
        if separator and scheme in kind.schemes:
            kind.check(value)
            return name
    raise ValueError(f"must be {in_words([kind.named for kind in KINDS.values()])}")


def in_words(ways: list[str]) -> str:
    """As a list within a sentence: a, b or c."""
    return " or ".join([", ".join(ways[:-1]), ways[-1]] if ways[1:] else ways)

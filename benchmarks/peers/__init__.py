"""Other servers that keep or fan out events, each behind the same interface, started and stopped here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Throughput:
    """Durable appends of a closed loop."""

    per_s: float
    p50_ms: float
    p99_ms: float


class Started(Protocol):
    """A server under way: clients read `path`, a run for %s, from `port`; a line beginning with `mark` is an event."""

    port: int
    path: str
    mark: str

    async def runs(self, prefix: str, count: int) -> None:
        """Makes the streams `prefix`-0 to `prefix`-(count - 1), where streams have to be made."""

    async def count(self, prefix: str, runs: int, *, callers: int, events: int) -> None:
        """Appends so many events, spread over the runs; each caller has one append under way."""

    async def rate(self, prefix: str, runs: int, *, rate: float, seconds: float) -> int:
        """How many events were appended at a steady rate, each stamped when its append was called for."""

    async def throughput(self, prefix: str, runs: int, *, callers: int, seconds: float) -> Throughput | None:
        """Durable appends as fast as they go, by the leanest client there is; None where nothing is durable."""


@dataclass(frozen=True, slots=True)
class Peer:
    """`install` says in a sentence what is missing, or nothing; `settings` is how it is run, for the report."""

    name: str
    settings: str
    install: Callable[[], str | None]
    start: Callable[[Path, str], AbstractAsyncContextManager[Started]]
    """Of an empty folder and the DSN of an empty database."""

"""News of parts, in a process that shows them: hints that a part of a run has more, or has ended.

News may be lost, so readers look into PostgreSQL now and then by themselves. Within one process the news carries the
bytes; between processes it carries run ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from runwire.content.part_writer import Written

Hear: TypeAlias = Callable[[Written | None], None]
"""Called with bytes that were committed, or with None: something is new, look."""


class PartFeed:
    """Passes news on to those who watch a run. Call it from the event loop."""

    def __init__(self) -> None:
        self._by_run: dict[str, dict[object, Hear]] = {}
        self.draining = False
        """Readers that wait end soon: the process stops."""

    @contextmanager
    def listening(self, run_id: str, hear: Hear) -> Iterator[None]:
        """Inside the block `hear` is called for news of the run."""
        key = object()
        self._by_run.setdefault(run_id, {})[key] = hear
        try:
            yield
        finally:
            hearers = self._by_run[run_id]
            del hearers[key]
            if not hearers:
                del self._by_run[run_id]

    @contextmanager
    def waiting(self, run_id: str) -> Iterator[asyncio.Event]:
        """Inside the block the event is set by news of the run; clear it before a look."""
        news = asyncio.Event()
        with self.listening(run_id, lambda _written: news.set()):
            yield news

    def written(self, written: Sequence[Written]) -> None:
        """Bytes were committed by this process."""
        for each in written:
            for hear in self._hearers(each.run_id):
                hear(each)

    def hint(self, run_ids: Iterable[str]) -> None:
        """Something is new of the parts of these runs."""
        for run_id in run_ids:
            for hear in self._hearers(run_id):
                hear(None)

    def look_everywhere(self) -> None:
        """News may have been lost."""
        self.hint(tuple(self._by_run))

    def drain(self) -> None:
        """Ends the wait of every reader."""
        self.draining = True
        self.look_everywhere()

    def _hearers(self, run_id: str) -> tuple[Hear, ...]:
        return tuple(self._by_run.get(run_id, {}).values())

"""Who writes when: hubs with something new take turns, and one turn of the event loop writes to some clients only.

So a run that thousands follow holds up nobody else by more than a turn, and what is published meanwhile shares its next
write to each of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from runwire.stream.writes import Writes
from runwire.telemetry.logs import LogEvent, get_logger

WRITES_A_TURN: Final = 256
"""By threads: somewhat more than a millisecond, for which what comes next waits. The event loop does not."""
WRITES_OF_THE_LOOP: Final = 64
"""Half a millisecond of one core: what the event loop writes by itself in a turn."""

_log = get_logger()


class Writing(Protocol):
    """A hub with something to write."""

    run_id: str
    flush_due: bool
    """It has more to write, and wants another turn."""

    def flush(self, at_most: int, writes: Writes) -> int:
        """Writes to some clients, `at_most` of them, and says to how many; one by its transport counts as several.

        Some of it may be left to `writes`, made at the end of the turn.
        """


class Turns:
    """Shared by the hubs of a process. First come, first served; who is not done then goes to the end of the queue.

    While as many turns' writes are under way as may be, hubs wait: whose turn comes later writes more at once.
    """

    def __init__(self, writes: Writes, *, writes_a_turn: int | None = None) -> None:
        self._writes = writes
        self._writes.on_room = self._go_on
        self._writes_a_turn = writes_a_turn or (WRITES_A_TURN if writes.by_threads else WRITES_OF_THE_LOOP)
        self._due: deque[Writing] = deque()
        self._next: asyncio.Handle | None = None
        self._idle = asyncio.Event()

    @property
    def ended(self) -> int:
        """How many batches of writes are over: those up to this number, as `Writes.gathering` had it."""
        return self._writes.ended

    async def all_taken(self) -> None:
        """Returns when no hub waits for its turn; the last of what they write may still be under way."""
        while self._due:
            self._idle.clear()
            await self._idle.wait()

    async def settled(self) -> None:
        """Returns when what hubs have given to be written by now is written."""
        await self._writes.settled()

    def take(self, hub: Writing) -> None:
        """Has the hub write. Not at once: what else this turn of the event loop brings goes out in the same write."""
        self._due.append(hub)
        self._go_on()

    def close(self) -> None:
        """When no stream is open any more."""
        self._writes.close()

    def _go_on(self) -> None:
        if self._next is None and self._due and not self._writes.full:
            self._next = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._next = None
        due, left = self._due, self._writes_a_turn
        again: list[Writing] = []
        while due and left > 0:
            hub = due.popleft()
            try:
                left -= max(hub.flush(left, self._writes), 1)
            except Exception as error:  # noqa: BLE001  # a defect of one hub is not the others'
                _log.error(LogEvent.TASK_FAILED, task="flush", run_id=hub.run_id, exc_info=error)
                hub.flush_due = False  # until there is more to write
            if hub.flush_due:
                again.append(hub)
        due.extend(again)
        try:
            self._writes.make()
        finally:
            self._go_on()
            if not due:
                self._idle.set()

"""Who writes when: hubs with something new take turns, and one turn of the event loop writes to some clients only.

So a run that thousands follow holds up nobody else by more than a turn, and what is published meanwhile shares its next
write to each of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from runwire.stream.outlet import Writes
from runwire.telemetry.logs import LogEvent, get_logger

WRITES_A_TURN: Final = 64
"""Half a millisecond of one core. An append waits for some turns, so what is shorter lets more of them through."""

_log = get_logger()


class Writing(Protocol):
    """A hub with something to write."""

    run_id: str
    flush_due: bool
    """It has more to write, and wants another turn."""

    def flush(self, at_most: int, writes: Writes) -> int:
        """Writes to some clients, `at_most` of them, and says to how many.

        Some of it may be left to `writes`, made at the end of the turn.
        """


class Turns:
    """Shared by the hubs of a process. First come, first served; who is not done then goes to the end of the queue."""

    def __init__(self, writes_a_turn: int = WRITES_A_TURN) -> None:
        self._writes_a_turn = writes_a_turn
        self._due: deque[Writing] = deque()
        self._writes = Writes()

    @property
    def some_due(self) -> bool:
        """Whether a hub waits for its turn."""
        return bool(self._due)

    def take(self, hub: Writing) -> None:
        """Has the hub write. Not at once: what else this turn of the event loop brings goes out in the same write."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._turn)
        self._due.append(hub)

    def _turn(self) -> None:
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
        if due:
            asyncio.get_running_loop().call_soon(self._turn)
        self._writes.make()

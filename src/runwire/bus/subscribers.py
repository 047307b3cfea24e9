"""Who wants to hear of which run, within one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runwire.bus import Deliver, Published
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()


class Subscribers:
    """Callbacks by run. One that raises has lost that message, as it may; nobody else has."""

    def __init__(self) -> None:
        self._by_run: dict[str, tuple[Deliver, ...]] = {}

    @contextmanager
    def subscribed(self, run_id: str, deliver: Deliver) -> Iterator[None]:
        """Inside, `deliver` is told of the run; as often as it is subscribed."""
        self._by_run[run_id] = (*self._by_run.get(run_id, ()), deliver)
        try:
            yield
        finally:
            left = list(self._by_run[run_id])
            left.remove(deliver)
            if left:
                self._by_run[run_id] = tuple(left)
            else:
                del self._by_run[run_id]

    def of(self, run_id: str) -> tuple[Deliver, ...]:
        """Those there are now: who comes or goes while they are told changes nothing of it."""
        return self._by_run.get(run_id, ())

    def run_ids(self) -> tuple[str, ...]:
        """The runs that somebody wants to hear of now."""
        return tuple(self._by_run)


def tell(deliver: Deliver, message: Published) -> None:
    """Delivers, and logs what goes wrong in it: a defect of one subscriber is not the publisher's, nor the others'."""
    try:
        deliver(message)
    except Exception as error:  # noqa: BLE001  # see above
        _log.error(LogEvent.TASK_FAILED, task="bus subscriber", run_id=message.run_id, exc_info=error)

"""The subscribers of each run within one process."""

from __future__ import annotations

from runwire.bus import Deliver, Published
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()


class Subscription:
    """One callback among those of its run, inside the block; `with` and `async with` are the same to it.

    Written by hand because there is one for every watch: a generator's frame would be a KiB more of each.
    """

    __slots__ = ("_by_run", "_deliver", "_run_id")

    def __init__(self, by_run: dict[str, tuple[Deliver, ...]], run_id: str, deliver: Deliver) -> None:
        self._by_run = by_run
        self._run_id = run_id
        self._deliver = deliver

    def __enter__(self) -> None:
        self._by_run[self._run_id] = (*self._by_run.get(self._run_id, ()), self._deliver)

    def __exit__(self, *_: object) -> None:
        left = list(self._by_run[self._run_id])
        left.remove(self._deliver)
        if left:
            self._by_run[self._run_id] = tuple(left)
        else:
            del self._by_run[self._run_id]

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


class Subscribers:
    """Callbacks by run. A callback that raises loses that message; the others still get it."""

    def __init__(self) -> None:
        self._by_run: dict[str, tuple[Deliver, ...]] = {}

    def subscribed(self, run_id: str, deliver: Deliver) -> Subscription:
        """Calls `deliver` for messages of the run inside the block, once per subscription."""
        return Subscription(self._by_run, run_id, deliver)

    def of(self, run_id: str) -> tuple[Deliver, ...]:
        """The current callbacks, as a copy: subscribing during a delivery does not change it."""
        return self._by_run.get(run_id, ())

    def run_ids(self) -> tuple[str, ...]:
        """The runs with at least one subscriber."""
        return tuple(self._by_run)


def tell(deliver: Deliver, message: Published) -> None:
    """Delivers, and logs errors of the callback: a defect of one subscriber must not harm the publisher or the
    others.
    """
    try:
        deliver(message)
    except Exception as error:  # noqa: BLE001  # see above
        _log.error(LogEvent.TASK_FAILED, task="bus subscriber", run_id=message.run_id, exc_info=error)

"""Operations of callers on runs: start, view, list, cancel, signal. Each is durable before it returns."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

from runwire.db import Database, load_sql, seen_by
from runwire.errors import AppendError, DatabaseFailed, RunClosed
from runwire.model.graph import Agents
from runwire.orchestrate.cancelling import Cancelling
from runwire.orchestrate.open_runs import OpenRuns
from runwire.orchestrate.run_view import RunReader, RunView
from runwire.orchestrate.seat import Seat
from runwire.orchestrate.settings import DEFAULTS
from runwire.orchestrate.signalling import SentSignal, SignalsOfRun, accepted_by, check_awaited, not_taken, store
from runwire.orchestrate.starting import RunStarter, Started, StartRequest, new_fence
from runwire.telemetry.logs import LogEvent, get_logger

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")
_log = get_logger()


class RunControl(RunReader):
    """The control face of runs. `on_claimable(agent)` and `on_cancel(run_id)` tell workers, after the commit."""

    def __init__(
        self,
        database: Database,
        agents: Agents,
        *,
        on_claimable: Callable[[str], None],
        on_cancel: Callable[[str], None],
        open_max: int = 0,
        state_max_bytes: int = DEFAULTS.state_max_bytes,
        read_timeout_s: float | None = None,
        seat: Callable[[str, str], Seat | None] = lambda _run_id, _agent: None,
        first_fence: Callable[[], int] = new_fence,
        cancelling: Cancelling | None = None,
    ) -> None:
        """`open_max` limits the open runs of all tenants; 0 is no limit. `state_max_bytes` limits the JSON of a state.
        `seat(run_id, agent)`: room at a worker of this process. `first_fence` makes that of an external run.
        `cancelling` ends cancelled runs that no worker walks; without it, another process does.
        """
        super().__init__(database, read_timeout_s=read_timeout_s)
        self._agents = agents
        self._cancelling = cancelling
        self._on_claimable = on_claimable
        self._on_cancel = on_cancel
        self._starter = RunStarter(
            database,
            agents,
            OpenRuns(database, at_most=open_max),
            on_claimable=on_claimable,
            seat=seat,
            first_fence=first_fence,
            state_max_bytes=state_max_bytes,
        )

    def on_behalf_of(self, tenant: str | None) -> RunControl:
        """The same for one tenant, which counts the same open runs; for None, this one."""
        if tenant is None:
            return self
        bound = copy(self)
        bound._see_only(tenant)  # noqa: SLF001  # of this class
        return bound

    def _see_only(self, tenant: str) -> None:
        self._starter = replace(self._starter, tenant=tenant)
        self._database = seen_by(self._starter.database, tenant)
        self._tenant = tenant

    async def start(self, request: StartRequest) -> Started:
        """The run, durable and claimable; the earlier run when id or idempotency key repeat an earlier start.

        Raises UnknownAgent, InvalidRequest (`invalid_run_id`, `invalid_input`), StartConflict or Overloaded.
        """
        return await self._starter.start(request)

    async def cancel(self, run_id: str) -> RunView:
        """The run after the request is durable; closed runs are left as they are. Raises RunNotFound.

        A run without a worker has ended then. The worker of a run is notified, and ends it soon.
        """
        changed = await self._database.execute(_SQL["cancel"], run_id)
        view = await self.view(run_id)
        if changed != "UPDATE 0":
            _log.info(LogEvent.CANCEL_REQUESTED, run_id=run_id)
        if not view.state.terminal and await self._end_at_rest(run_id):
            view = await self.view(run_id)
        if changed != "UPDATE 0":  # not before: a worker that takes the run to end it would be in the way
            self._on_cancel(run_id)
            self._on_claimable(view.agent)
        return view

    async def erase_state(self, run_id: str) -> None:
        """Erases the state and the input of a run that has ended. Raises RunNotFound."""
        await self.view(run_id)  # it is the caller's
        await self._starter.database.execute(_SQL["erase_state"], run_id)
        _log.info(LogEvent.STATE_ERASED, run_id=run_id)

    async def _end_at_rest(self, run_id: str) -> bool:
        if self._cancelling is None:
            return False
        try:
            return await self._cancelling.cancel(run_id)
        except (DatabaseFailed, AppendError) as error:  # the request is durable: a sweep ends the run
            _log.warning(LogEvent.APPEND_FAILED, run_id=run_id, code=error.code)
            return False

    async def signal(
        self, run_id: str, name: str, *, data: bytes | None = None, signal_id: str | None = None
    ) -> RunView:
        """The run after the signal is durable. `data` is JSON. A repeated id is answered as before, whatever became of
        the run.

        Raises RunNotFound, RunClosed for a run that is over, SignalNotAwaited, SignalConflict for an id that had other
        data, InvalidRequest for data that is too large or does not fit, and TooManySignals for a run with a hundred
        others.
        """
        sent = SentSignal(name, data, signal_id)
        sent.check()
        view = await self.view(run_id)
        if not view.state.terminal:
            check_awaited(self._agents, view, sent)
        stored = await store(self._database, run_id, sent)
        view = await self.view(run_id)
        if not stored:
            raise RunClosed(run_id, state=view.state, last_seq=view.last_seq)
        if not view.external:
            self._on_claimable(view.agent)
        return view

    async def signals(self, run_id: str, *, with_data: bool) -> SignalsOfRun:
        """The signals that the run accepts and those that it has not taken, which are content. Raises RunNotFound."""
        view = await self.view(run_id)
        accepted, others = accepted_by(self._agents, view)
        return SignalsOfRun(view, accepted, others, await not_taken(self._database, run_id, with_data=with_data))

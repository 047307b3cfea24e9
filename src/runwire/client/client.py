"""The client: start runs, read their state, and follow their events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET

from runwire.client.artifacts import ArtifactCalls
from runwire.client.calls import Call
from runwire.client.connection import RUNS, Run, id_of, path_of
from runwire.client.external import ExternalCalls
from runwire.client.many import ManyRunsStream
from runwire.client.parts import PartCalls
from runwire.client.results import (
    Diagnosis,
    EventPage,
    RunPage,
    RunSignals,
    RunView,
    StartedRun,
    StoredState,
    StreamTicket,
)
from runwire.client.stream import IDLE_S, MixedStream, RunStream
from runwire.model.run import RunState, checked_run_id, new_run_id


class Client(ArtifactCalls, PartCalls, ExternalCalls):
    """A client of one runwire service, used as an async context manager.

    A call is tried for `retry_s` seconds while the service cannot be reached or is busy (it heeds Retry-After); one try
    may take `timeout_s` seconds. Calls that are not safe to repeat are tried once. A call raises the service's error as
    a type of `runwire.errors`, or ServerUnreachable, ServerProblem, UnexpectedAnswer.

    `token` is a token, an API key, or a function that returns one. The client calls the function for each request, so a
    stream outlives its first token. The client follows no redirect; it raises an UnexpectedAnswer that names the
    target. Raises InvalidRequest for a URL with a password, and for a token that no header can carry.
    """

    async def start(
        self,
        agent: str = "golden",
        *,
        input: Mapping[str, Any] | None = None,  # noqa: A002  # the word of the API
        run_id: str | None = None,
        idempotency_key: str | None = None,
        external: bool = False,
        lease_seconds: float | None = None,
        session: str | None = None,
        labels: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> StartedRun:
        """Starts a run and returns it once it is stored. Retries start it only once, since every call has an
        idempotency key; pass your own to make repeated calls one start. With `external` you append the run's events,
        with the `fence` of the result. `session` and `labels` are names to find the run by. Raises UnknownAgent,
        StartConflict or InvalidRequest.
        """
        body: dict[str, Any] = {"agent": agent}
        if run_id is not None:
            body["runId"] = checked_run_id(run_id)
        if input is not None:
            body["input"] = input
        if external:
            body["external"] = True
        if lease_seconds is not None:
            body["leaseSeconds"] = lease_seconds
        if session is not None:
            body["session"] = session
        if labels:
            body["labels"] = labels
        headers = {"Idempotency-Key": idempotency_key or new_run_id()}
        if traceparent is not None:
            headers["traceparent"] = traceparent
        return await self._caller.call(Call("POST", RUNS, body=body, headers=headers, run_id=run_id or ""), StartedRun)

    def stream(self, run: Run, *, after: int = 0, idle_s: float = IDLE_S, patience_s: float | None = None) -> RunStream:
        """The run's events after seq `after`, live and to the end, each once and in order; see RunStream.

        A connection silent for `idle_s` is replaced. Once connected, it goes on trying for `patience_s` after the
        last event, or for ever.
        """
        view = _view_of(run)
        return self._followed(RunStream(self._caller, view, after=after, idle_s=idle_s, patience_s=patience_s))

    def stream_with_parts(
        self, run: Run, *, parts: Sequence[str] | None = None, idle_s: float = IDLE_S, patience_s: float | None = None
    ) -> MixedStream:
        """The run's events from the beginning, with the bytes of its parts between them: of all, or of those named.

        Bytes come as PartPiece, each once and in order, through any number of reconnects. Needs `content:read`.
        """
        view = _view_of(run)
        asked = "*" if parts is None else ",".join(parts)
        return self._followed(
            MixedStream(self._caller, view, after=0, idle_s=idle_s, patience_s=patience_s, parts=asked)
        )

    def stream_runs(
        self,
        *,
        runs: Sequence[Run] = (),
        session: str | None = None,
        labels: Mapping[str, str] | None = None,
        after: str | None = None,
        idle_s: float = IDLE_S,
        patience_s: float | None = None,
    ) -> ManyRunsStream:
        """The events of many runs on one connection, and their ends: of a list, or of the runs of a session or with
        all of `labels`, now or later. Each comes once and in the order of its run; see ManyRunsStream.

        `after` is the `last_id` of an earlier stream of the same runs. The rest is as for `stream`.
        """
        query: dict[str, str | list[str]] = {}
        if runs:
            query["run"] = [id_of(run) for run in runs]
        if session is not None:
            query["session"] = session
        if labels:
            query["label"] = [f"{key}:{value}" for key, value in labels.items()]
        return self._followed(
            ManyRunsStream(self._caller, query=query, after=after, idle_s=idle_s, patience_s=patience_s)
        )

    def replay(
        self,
        run: Run,
        *,
        speed: float | Literal["max"] = 1,
        after: int = 0,
        idle_s: float = IDLE_S,
        patience_s: float | None = None,
    ) -> RunStream:
        """A closed run's events once more, in their own time, `speed` times faster, or all at once.

        They are those of the stream but for their `source`, `replayer`. Iterating raises RunStillOpen for a run that
        goes on; the rest is as for `stream`.
        """
        view = _view_of(run)
        named = speed if isinstance(speed, str) else f"{speed:.6g}"
        return self._followed(
            RunStream(self._caller, view, after=after, idle_s=idle_s, patience_s=patience_s, speed=named)
        )

    async def run(self, run: Run) -> RunView:
        """The run as it is now. Raises RunNotFound."""
        return await self._on_run("GET", run, "", RunView)

    async def runs(
        self,
        *,
        state: RunState | None = None,
        agent: str | None = None,
        session: str | None = None,
        labels: Mapping[str, str] | None = None,
        error_code: str | None = None,
        created_from: datetime | None = None,
        created_until: datetime | None = None,
        sort: Literal["created", "ended"] = "created",
        page_size: int = 100,
    ) -> AsyncIterator[RunView]:
        """Runs that match all that is given, read page by page as they are asked for.

        The latest created come first; with `sort="ended"` the latest ended, without open runs. Runs have all of
        `labels`. They were created at `created_from` or later, and before `created_until`. A datetime without a time
        zone is local time.
        """
        cursor: str | None = None
        while True:
            asked = {
                "state": state,
                "agent": agent,
                "session": session,
                "errorCode": error_code,
                "from": None if created_from is None else round(created_from.timestamp() * 1000),
                "until": None if created_until is None else round(created_until.timestamp() * 1000),
                "sort": None if sort == "created" else sort,
                "cursor": cursor,
                "limit": page_size,
            }
            query: dict[str, str | Sequence[str]] = {
                name: str(value) for name, value in asked.items() if value is not None
            }
            if labels:
                query["label"] = [f"{key}:{value}" for key, value in labels.items()]
            page = await self._caller.call(Call("GET", RUNS, query=query), RunPage)
            for view in page.runs:
                yield view
            cursor = page.next_cursor
            if cursor is None:
                return

    async def events(self, run: Run, *, after: int = 0, limit: int | None = None) -> EventPage:
        """A page of stored events after seq `after`. Raises RunNotFound, CursorPastTail or CursorExpired."""
        query = {"fromSeq": str(after)} | ({} if limit is None else {"limit": str(limit)})
        return await self._on_run("GET", run, "/events", EventPage, query=query)

    async def state(self, run: Run) -> StoredState:
        """The run's state as of its last checkpoint, or the one that it begins with. Raises RunNotFound."""
        return await self._on_run("GET", run, "/state", StoredState)

    async def diagnosis(self, run: Run) -> Diagnosis:
        """The stage the run is stuck in, if it is, with evidence and the safe next step. Raises RunNotFound."""
        return await self._on_run("GET", run, "/diagnosis", Diagnosis)

    async def stream_ticket(self, run: Run) -> StreamTicket:
        """A ticket with which a browser, which can send no header, follows the run. Raises RunNotFound."""
        return await self._on_run("POST", run, "/stream-ticket", StreamTicket)

    async def cancel(self, run: Run) -> RunView:
        """The run once the request is durable; it then ends by itself. A closed run stays. Raises RunNotFound."""
        return await self._on_run("POST", run, "/cancel", RunView)

    async def signal(self, run: Run, name: str, *, data: Any = UNSET, signal_id: str | None = None) -> RunView:
        """The run once the signal is durable. `data` is any JSON of at most 64 KiB, for the node that goes on.

        With a `signal_id` the run gets the signal once, and the request is repeated when an answer is lost. Without one
        it is not: a second signal could be taken for the next wait of the same name. Raises RunNotFound, RunClosed,
        SignalNotAwaited, SignalConflict, TooManySignals, or InvalidRequest for data that does not fit.
        """
        body: dict[str, Any] = {"name": name}
        if data is not UNSET:
            body["data"] = data
        if signal_id is not None:
            body["id"] = signal_id
        return await self._on_run("POST", run, "/signal", RunView, body=body, repeatable=signal_id is not None)

    async def signals(self, run: Run) -> RunSignals:
        """The signals for which the run waits, those it accepts, and those it has not taken. Raises RunNotFound.

        Their data needs `content:read`.
        """
        return await self._on_run("GET", run, "/signals", RunSignals)


def _view_of(run: Run) -> Call:
    """The call that reads the run as it is now."""
    run_id = id_of(run)
    return Call("GET", path_of(run_id), run_id=run_id)

"""One round of the canary: a run from its start to its end, as a user sees it, timed on one monotonic clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from runwire.agents.canary import SIGNAL, canary
from runwire.canary.faults import Reason, Step, StepFailed, reason_of
from runwire.client import Client, RunStream
from runwire.clock import monotonic
from runwire.errors import RunwireError
from runwire.model.event import Event, EventType
from runwire.model.run import RunState, new_run_id

LABELS: Final = {"canary": "true"}
"""Labels of each of its runs, to find them by."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round that has ended. `seconds` has the steps that it passed; `failed` is the one that ended it, if any."""

    run_id: str
    cancelled: bool
    seconds: Mapping[Step, float]
    took_s: float
    failed: StepFailed | None

    @property
    def good(self) -> bool:
        return self.failed is None


async def walked(client: Client, *, timeout_s: float, cancels: bool) -> Round:
    """Walks a round. `cancels`: the run is cancelled where it waits, else it gets its signal. A step that takes longer
    than `timeout_s` fails. A failed round leaves no open run behind, unless the service refuses to cancel it.
    """
    walk = _Walk(client, timeout_s=timeout_s, cancels=cancels)
    began = monotonic()
    try:
        await walk.go()
    except StepFailed as failed:
        took_s = monotonic() - began
        await given_up(client, walk.run_id, within_s=timeout_s)
        return Round(walk.run_id, cancels, walk.seconds, took_s, failed)
    return Round(walk.run_id, cancels, walk.seconds, monotonic() - began, None)


async def given_up(client: Client, run_id: str, *, within_s: float) -> bool:
    """Cancels a run that nobody needs any more. Whether the service has taken it, or knows no such run."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            try:
                await client.cancel(run_id)
            except RunwireError as error:
                return reason_of(error) is Reason.REFUSED
            return True
    return False


class _Walk:
    """A round while it is walked."""

    def __init__(self, client: Client, *, timeout_s: float, cancels: bool) -> None:
        self.run_id = new_run_id()
        self.seconds: dict[Step, float] = {}
        self._client = client
        self._timeout_s = timeout_s
        self._cancels = cancels
        self._events: list[Event] = []
        self._stream: RunStream | None = None

    async def go(self) -> None:
        """Raises StepFailed."""
        began = monotonic()
        async with self._timed(Step.START, since=began):
            await self._start()
        # Less patient than the step, so that a failure is told as what it is, and not as a timeout.
        self._stream = self._client.stream(self.run_id, idle_s=self._timeout_s, patience_s=self._timeout_s / 2)
        async with self._stream as stream:
            async with self._timed(Step.FIRST_EVENT, since=began):
                await self._next(stream, Step.FIRST_EVENT)
            async with self._timed(Step.WAITING, since=began):
                while self._events[-1].type is not EventType.NODE_FINISHED:
                    await self._next(stream, Step.WAITING)
            await (self._cancelled(stream) if self._cancels else self._signalled(stream))
        async with self._timed(Step.LOG):
            await self._compare()

    async def _start(self) -> str:
        run = await self._client.start(
            canary.name, run_id=self.run_id, idempotency_key=f"canary-{self.run_id}", labels=LABELS
        )
        return run.run_id

    async def _signalled(self, stream: RunStream) -> None:
        sent = monotonic()
        async with self._timed(Step.SIGNAL, since=sent):
            await self._client.signal(self.run_id, SIGNAL, signal_id=self.run_id)
            await self._next(stream, Step.SIGNAL)
        async with self._timed(Step.END, since=sent):
            await self._to_end(stream, Step.END, RunState.FINISHED)

    async def _cancelled(self, stream: RunStream) -> None:
        async with self._timed(Step.CANCEL):
            await self._client.cancel(self.run_id)
            await self._to_end(stream, Step.CANCEL, RunState.CANCELLED)

    async def _next(self, stream: RunStream, step: Step) -> None:
        event = await anext(stream, None)
        self._check(step)
        if event is None:
            raise StepFailed(step, Reason.WRONG_END, f"the stream ended after {len(self._events)} events")
        self._events.append(event)

    async def _to_end(self, stream: RunStream, step: Step, wanted: RunState) -> None:
        async for event in stream:
            self._events.append(event)
        self._check(step)
        end = stream.end
        if end is None or end.state is not wanted or not _whole(self._events):
            state = "no end" if end is None else end.state
            raise StepFailed(step, Reason.WRONG_END, f"{state} after {len(self._events)} events, not {wanted}")

    def _check(self, step: Step) -> None:
        """Raises StepFailed when the stream has broken its promise. The client has repaired that for everybody else."""
        if self._stream is not None and self._stream.repeated:
            raise StepFailed(step, Reason.REPEATED, "the stream sent an event twice")
        if self._stream is not None and self._stream.skipped:
            raise StepFailed(step, Reason.SKIPPED, "the stream left an event out")

    async def _compare(self) -> None:
        page = await self._client.events(self.run_id)
        if page.has_more or [_fact(event) for event in page.events] != [_fact(event) for event in self._events]:
            said = f"the log has {len(page.events)} events, which are not the {len(self._events)} of the stream"
            raise StepFailed(Step.LOG, Reason.LOG_DIFFERS, said)
        if (again := await self._start()) != self.run_id:
            raise StepFailed(Step.LOG, Reason.STARTED_TWICE, f"the same start became {again}, too")

    @asynccontextmanager
    async def _timed(self, step: Step, *, since: float | None = None) -> AsyncIterator[None]:
        began = monotonic() if since is None else since
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            self._check(step)
            raise StepFailed(step, Reason.TIMEOUT, f"not over within {self._timeout_s:g} s") from None
        except RunwireError as error:
            self._check(step)
            raise StepFailed(step, reason_of(error), " ".join(str(error).split())) from error
        self.seconds[step] = monotonic() - began


def _whole(events: Sequence[Event]) -> bool:
    """Whether it is a whole log: dense from 1 on, begun once and ended once."""
    kinds = [event.type for event in events]
    return (
        [event.seq for event in events] == list(range(1, len(events) + 1))
        and kinds[:1] == [EventType.RUN_STARTED]
        and EventType.RUN_FINISHED not in kinds[:-1]
        and kinds[-1] is EventType.RUN_FINISHED
    )


def _fact(event: Event) -> tuple[int, EventType, str | None, str | None]:
    return event.seq, event.type, event.name, event.fn

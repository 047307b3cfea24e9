"""The events of many runs, each exactly once and in the order of its run, through any number of reconnects."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from runwire.client.calls import Call, Caller, decoded
from runwire.client.results import StreamEnd
from runwire.client.sse import ServerEvent
from runwire.client.stream import FollowedStream
from runwire.model.event import Event


class ManyRunsStream(FollowedStream[Event | StreamEnd]):
    """An async iterator over the events of many runs, and their ends: an Event, or a StreamEnd after a run's last one.

    It ends after the last run of a list; that of a session or of labels goes on until it is closed. `last_id` is the
    cursor after the last item: pass it as `after` to another stream of the same runs to resume there.
    """

    def __init__(
        self,
        caller: Caller,
        *,
        query: Mapping[str, str | list[str]],
        after: str | None,
        idle_s: float,
        patience_s: float | None,
    ) -> None:
        super().__init__(caller, Call("GET", "/api/agents/stream"), after=0, idle_s=idle_s, patience_s=patience_s)
        self.last_id = after
        self._query.update(query)
        self._heard_id = after or ""
        self._ids: deque[str] = deque()
        self._seqs: dict[str, int] = {}
        self._finished = False

    async def __anext__(self) -> Event | StreamEnd:
        """Raises RunNotFound, InvalidRequest, CheckpointGone and their like at once. The rest is as for RunStream."""
        told = await super().__anext__()
        self.last_id = self._ids.popleft()
        return told

    @property
    def _settled(self) -> bool:
        return bool(self._events) or self._finished or self._closed

    @property
    def _path(self) -> str:
        return self._view.path

    @property
    def _last_event_id(self) -> str | None:
        return self._heard_id or None

    async def _finish(self) -> None:
        self._finished = True

    def _take(self, frames: list[ServerEvent]) -> None:
        if self._parser.retry_ms is not None:
            self._retry_ms = self._parser.retry_ms
        for frame in frames:
            told: Event | StreamEnd
            if frame.event == "message":
                told = decoded(frame.data, Event)
                if told.seq <= self._seqs.get(told.run_id, 0):
                    continue  # sent twice, given once
                self._seqs[told.run_id] = told.seq
            elif frame.event == "end":
                told = decoded(frame.data, StreamEnd)
            else:
                continue
            self._events.append(told)
            self._ids.append(frame.last_event_id)
        # Blocks without data have ids, too: the first of a stream is its client's own.
        self._heard_id = self._parser.last_event_id or self._heard_id

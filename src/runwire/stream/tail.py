"""The tail of one run: puts in order what the bus and PostgreSQL say, and encodes each event once. Pure.

A tail has no task, no timer and no client. Its steps are `deliver` (the bus), `learn` and `take` (PostgreSQL); a step
returns the piece that is new by it. So a test can step through every interleaving.

    last <= published <= known

`last` is the highest seq that the tail has, without a hole below it. Events up to `published` may be shown: the tail
reads those it lacks (`stretch_behind`). Events up to `known` exist: the tail looks again until they are published.

    new --learn--> located --learn: closed--> ended
                      |
                      +--lose--> lost

A new tail only counts how far the bus has come (`published`). The order is: subscribe, `learn` the position, serve
clients. A message that comes in between is then read from PostgreSQL, so nothing slips through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from runwire.bus import Published
from runwire.clock import monotonic
from runwire.model.event import EventType, StoredEvent
from runwire.stream.frames import Frames
from runwire.stream.limits import StreamLimits
from runwire.stream.log import Position, Stretch
from runwire.stream.piece import Piece
from runwire.stream.ring import Ring
from runwire.telemetry.metrics import StreamMetrics

RECHECK_FIRST_S: Final = 0.1
RECHECK_MAX_S: Final = 1.0
_TERMINAL: Final = EventType.RUN_FINISHED.value


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended. Its terminal event is `last_seq`."""

    state: str
    last_seq: int


class Tail:
    """One run's events as this process has them. It belongs to one event loop."""

    __slots__ = (
        "_frames",
        "_limits",
        "_metrics",
        "_recheck_s",
        "_saw_terminal",
        "check_at",
        "end",
        "lost",
        "position",
        "published",
        "ring",
        "run_id",
        "wants_read",
    )

    def __init__(self, run_id: str, *, limits: StreamLimits, metrics: StreamMetrics) -> None:
        self.run_id = run_id
        self.position: Position | None = None
        self.published = 0
        self.end: End | None = None
        self.check_at = inf
        """When (monotonic) to read the position again: soon while something known is missing, else after silence."""
        self.lost = False
        """The run is gone from PostgreSQL."""
        self.wants_read = False
        """A step found events or an end to read at once. The caller of the step arranges the read and clears this."""
        self.ring = Ring(limits.ring_events)
        self._frames = Frames(run_id)
        self._limits = limits
        self._metrics = metrics
        self._recheck_s = RECHECK_FIRST_S
        self._saw_terminal = False

    # ------------------------------------------------------------------ what it knows

    @property
    def last(self) -> int:
        return self.ring.tail

    @property
    def known(self) -> int:
        """The highest seq known to exist, published or not."""
        return max(self.published, self.position.last_seq if self.position else 0)

    @property
    def stretch_behind(self) -> Stretch | None:
        """Published events that the tail lacks: read them from PostgreSQL and `take` them."""
        if self.position is None or self.last >= self.published:
            return None
        return Stretch(self.run_id, self.position.run_day, self.last, self.published)

    @property
    def is_missing_some(self) -> bool:
        """The tail knows of something that it lacks."""
        last = self.ring.tail
        if last < self.published or (self._saw_terminal and self.end is None):
            return True
        return self.position is not None and last < self.position.last_seq

    @property
    def wants_end(self) -> bool:
        """The tail has the terminal event, and not how the run ended: `learn` the position."""
        return self._saw_terminal and self.end is None

    def ended_for(self, cursor: int) -> End | None:
        """The End, for a client that has every event of a closed run."""
        return self.end if self.end is not None and cursor >= self.end.last_seq else None

    # ------------------------------------------------------------------ steps

    def deliver(self, message: Published) -> Piece | None:
        """Takes a message of the bus. Drops repeats, and asks for what the message skipped or did not carry."""
        last = self.ring.tail
        if self.position is None:
            self.published = max(self.published, message.last_seq)
            return None
        piece: Piece | None = None
        events = _carried(message)
        if message.outcome is not None and self.end is None:
            self.end = End(message.outcome, message.last_seq)
        if events and message.first_seq == last + 1 and self.published == last:  # nearly always
            self.published = message.last_seq
            piece = self._append(events)
        elif message.last_seq <= last:
            self._metrics.sse_duplicates_dropped.inc(message.last_seq - message.first_seq + 1)
        else:
            if message.first_seq > self.published + 1:
                self._metrics.sse_gaps_repaired.inc()
            self.published = max(self.published, message.last_seq)
            repeated = last + 1 - message.first_seq
            if repeated > 0:
                self._metrics.sse_duplicates_dropped.inc(repeated)
            if repeated >= 0 and events:
                piece = self._append(events[repeated:] if repeated else events)
            if self.ring.tail < self.published:
                self.wants_read = True
        self._recheck_s = RECHECK_FIRST_S
        self._plan_check()
        return piece

    def learn(self, position: Position, *, after_silence: bool = False) -> None:
        """Takes the run's position. With `after_silence`, the bus has lost whatever is new by it."""
        if self.position is None:
            self.ring = Ring(self._limits.ring_events, tail=position.published)
        elif after_silence and position.published > self.published:
            self._metrics.sse_gaps_repaired.inc()
        if self.position is None or position.last_seq >= self.position.last_seq:
            self.position = position
        self.published = max(self.published, position.published)
        if position.closed:
            self.end = End(position.state.value, position.last_seq)
        if self.last < self.published:
            self.wants_read = True
        self._plan_check()

    def take(self, events: Sequence[StoredEvent]) -> Piece | None:
        """Takes events that were read for `stretch_behind`; skips those that the bus brought meanwhile.

        Events with a hole, or that do not follow the tail, are dropped.
        """
        piece: Piece | None = None
        last = self.last
        fresh = [event for event in events if event.seq > last]
        if fresh and fresh[0].seq == last + 1 and _dense(fresh):
            self._recheck_s = RECHECK_FIRST_S
            piece = self._append(fresh)
            if self.last < self.published:
                self.wants_read = True
        self._plan_check()
        return piece

    def lose(self) -> None:
        """Takes that the run is no longer in PostgreSQL."""
        self.lost = True
        self.check_at = inf

    def put_off(self) -> None:
        """A read failed or found nothing new: the next one is due later, up to a second apart."""
        self.check_at = monotonic() + self._recheck_s
        self._recheck_s = min(self._recheck_s * 2, RECHECK_MAX_S)

    def keep_page(self, events: Sequence[StoredEvent]) -> bytes:
        """Encodes a page that was read for a client that is behind, and keeps it while there is room."""
        frames = self._frames.of(events)
        self.ring.prepend(events[0].seq, events[-1].seq, frames)
        return frames

    def _plan_check(self) -> None:
        if self.end is not None and self.ring.tail >= self.end.last_seq:
            self.check_at = inf
        elif self.is_missing_some:
            self.put_off()
        else:
            self._recheck_s = RECHECK_FIRST_S
            self.check_at = monotonic() + self._limits.silence_s

    def _append(self, events: Sequence[StoredEvent]) -> Piece:
        first, last = events[0], events[-1]
        frames = self._frames.of(events)
        self.ring.extend(first.seq, last.seq, frames)
        if last.type == _TERMINAL:
            self._saw_terminal = True
            if self.end is None:
                self.wants_read = True
        if first.ts_us == last.ts_us:  # one append gives all its events one time
            return Piece(first.seq, last.seq, (frames,), ((len(events), last.ts_us),))
        return Piece(first.seq, last.seq, (frames,), [(1, event.ts_us) for event in events])


def _carried(message: Published) -> Sequence[StoredEvent]:
    """The events of a message that carries all it announces; else none, and PostgreSQL has to be read."""
    events = message.events
    if not events:
        return ()
    first, last = events[0].seq, events[-1].seq
    whole = first == message.first_seq and last == message.last_seq and last - first + 1 == len(events)
    return events if whole else ()


def _dense(events: Sequence[StoredEvent]) -> bool:
    return events[-1].seq - events[0].seq + 1 == len(events)

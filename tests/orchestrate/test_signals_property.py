"""Signals, time-outs, cancels and crashes in any order: a run hears what the model hears, each once and in order."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrate.waiting_agents import chatting
from pipeline import Stages, stages
from runwire.db import load_sql
from runwire.errors import RunClosed, SignalConflict
from runwire.orchestrate import StartRequest
from waiting import eventually

CLAIM = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]

SENT = st.tuples(st.just("signal"), st.sampled_from([None, "a", "b", "c"]), st.integers(0, 2))
RACED = st.tuples(st.just("race"), st.just(None), st.integers(10, 12))
OTHER = st.sampled_from([(what, None, 0) for what in ("walk", "walk", "die", "due", "bye")])
ENDING = st.just(("cancel", None, 0))
STORIES = st.tuples(
    st.lists(SENT | OTHER | RACED, max_size=12), st.lists(ENDING, max_size=1), st.lists(SENT, max_size=2)
)


@dataclass
class Model:
    """The state that the run must be in. `going_on` is the decision of a claim whose worker died."""

    heard: list[Any] = field(default_factory=list)
    inbox: deque[tuple[str, str | None, Any]] = field(default_factory=deque)
    ids: dict[str, Any] = field(default_factory=dict)
    due: bool = False
    going_on: Any = None
    over: str | None = None

    def signal(self, name: str, signal_id: str | None, data: Any) -> type[Exception] | None:
        if signal_id in self.ids:
            return None if self.ids[signal_id] == (name, data) else SignalConflict
        if self.over:
            return RunClosed
        if signal_id is not None:
            self.ids[signal_id] = (name, data)
        elif (known := next((n for n, one in enumerate(self.inbox) if one[:2] == (name, None)), None)) is not None:
            self.inbox[known] = (name, None, data)
            return None
        self.inbox.append((name, signal_id, data))
        return None

    def claim(self) -> bool:
        """Whether a worker takes the run now; what ends its wait is decided."""
        if self.over or not (self.going_on is not None or self.inbox or self.due):
            return False
        if self.going_on is None:
            if self.inbox:
                name, _, data = self.inbox.popleft()
                self.going_on = "bye" if name == "bye" else data
            else:
                self.going_on = "silence"
        self.due = False
        return True

    def walk(self) -> bool:
        if not self.claim():
            return False
        self.heard.append(self.going_on)
        self.over = "finished" if self.going_on == "bye" else None
        if self.over:
            self.inbox.clear()
        self.going_on = None
        return True


class World:
    def __init__(self, s: Stages, run_id: str) -> None:
        self.s = s
        self.run_id = run_id
        self.model = Model()

    async def signal(self, name: str, signal_id: str | None, data: Any) -> None:
        await self._sent(name, signal_id, data, self.model.signal(name, signal_id, data))

    async def _sent(self, name: str, signal_id: str | None, data: Any, refused: type[Exception] | None) -> None:
        try:
            await self.s.control.signal(self.run_id, name, data=json.dumps(data).encode(), signal_id=signal_id)
        except (SignalConflict, RunClosed) as error:
            assert type(error) is refused  # noqa: PT017  # which of them is the model's to say
        else:
            assert refused is None

    async def walk(self) -> None:
        worker = self.s.worker()
        assert await worker.claim() == self.model.walk()
        await eventually(lambda: worker.active == 0)

    async def die(self) -> None:
        rows = await self.s.database.fetch(CLAIM, ["chatting"], 10, "dead", 30.0)
        assert len(rows) == self.model.claim()
        await self.s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s' WHERE state = 'started'")

    async def due(self) -> None:
        # A run that went on already has no timer.
        done = await self.s.database.execute(
            "UPDATE runs SET wake_at = clock_timestamp() WHERE run_id = $1 AND state = 'waiting'", self.run_id
        )
        self.model.due = done == "UPDATE 1"

    async def race(self, data: int) -> None:
        """A signal, the time-out and two workers at the same moment: whoever wins, one does."""
        await self.due()
        model = self.model
        if model.over or model.going_on is not None or model.inbox:
            return
        workers = [self.s.worker(worker_id=f"w{n}") for n in range(2)]
        await asyncio.gather(self._sent("message", None, data, None), *(worker.claim() for worker in workers))
        await eventually(lambda: all(worker.active == 0 for worker in workers))
        heard = (await self.heard())[len(model.heard) :]
        # The second worker may come when the run waits again already, and the signal is for that wait.
        # While the signal is stored both workers may find the run's row locked, and leave it for their next look.
        assert heard in ([], ["silence"], ["silence", data], [data])
        model.heard += heard
        model.due = heard == []
        if data not in heard:
            model.signal("message", None, data)

    async def bye(self) -> None:
        await self.signal("bye", None, None)

    async def cancel(self) -> None:
        await self.s.control.cancel(self.run_id)
        self.model.over = self.model.over or "cancelled"
        self.model.inbox.clear()

    async def heard(self) -> list[Any]:
        found: list[Any] = json.loads((await self.s.control.state(self.run_id)).state or b"{}")["heard"]
        return found

    async def check(self) -> None:
        view = await self.s.control.view(self.run_id)
        expected = self.model.over or ("started" if self.model.going_on is not None else "waiting")
        assert view.state == expected
        assert await self.heard() == self.model.heard
        left = await self.s.database.fetch(
            "SELECT signal, signal_id, data FROM run_signals WHERE run_id = $1 AND taken_at IS NULL ORDER BY n",
            self.run_id,
        )
        assert [(row[0], row[1], json.loads(row[2])) for row in left] == list(self.model.inbox)
        if self.model.over:
            assert [seq for seq, _, _ in await self.s.events(self.run_id)] == list(range(1, view.last_seq + 1))
            kept = "SELECT count(*) FROM run_signals WHERE run_id = $1 AND (data IS NOT NULL OR signal_id IS NULL)"
            assert await self.s.database.fetchval(kept, self.run_id) == 0


async def play(s: Stages, story: list[tuple[str, str | None, int]]) -> None:
    await s.database.execute("DELETE FROM runs")  # of an example that failed
    run_id = (await s.control.start(StartRequest(agent="chatting"))).run_id
    worker = s.worker()
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)
    world = World(s, run_id)
    deeds = {"walk": world.walk, "die": world.die, "due": world.due, "bye": world.bye, "cancel": world.cancel}
    for what, signal_id, data in story:
        if what == "signal":
            await world.signal("message", signal_id, data)
        elif what == "race":
            await world.race(data)
        else:
            await deeds[what]()
        await world.check()


@given(STORIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_hears_what_the_model_hears(database: str, stories: tuple[list[Any], list[Any], list[Any]]) -> None:
    async def run() -> None:
        async with stages(database, chatting()) as s:
            await play(s, [step for part in stories for step in part])

    asyncio.run(run())

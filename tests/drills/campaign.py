"""Every drill asked for, stage beside stage, in one event loop of its own; tests wait for their outcomes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from drills.baseline import Baseline, healthy
from drills.catalogue import DRILLS, PLANS
from drills.drill import Drill, Outcome, held
from drills.pressure import OF_A_BUSY_MACHINE
from drills.stage import Stage, load, stage

BASELINE: Final = "nothing is wrong"
BASELINE_STAGE: Final = "streams and runs"
OUTCOME_S: Final = 900.0


class Campaign:
    """Starts with the first of its drills; `close` waits for the end of all."""

    def __init__(self, names: Collection[str], *, folder: Path, admin_dsn: str, without: Collection[str]) -> None:
        self.drills = [drill for drill in DRILLS if drill.name in names]
        self._baseline = BASELINE in names
        self._folder = folder
        self._admin_dsn = admin_dsn
        self._without = without
        self._outcomes: dict[str, Future[Any]] = {name: Future() for name in names}
        self._unexpected: dict[str, Future[set[str]]] = {name: Future() for name in PLANS}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="drills")
        self._thread.start()

    def outcome(self, name: str) -> Outcome:
        """How a drill went. Raises what it failed with."""
        outcome: Outcome = self._outcomes[name].result(OUTCOME_S)
        return outcome

    def baseline(self) -> Baseline:
        found: Baseline = self._outcomes[BASELINE].result(OUTCOME_S)
        return found

    def unexpected(self, stage_name: str) -> set[str]:
        """Alerts that somebody was told of in that stage and that none of its drills account for."""
        return self._unexpected[stage_name].result(OUTCOME_S)

    def outcomes(self) -> list[Outcome]:
        """Of the drills that went well, in the order of the catalogue."""
        done = [self._outcomes[drill.name] for drill in self.drills]
        return [future.result() for future in done if future.done() and future.exception() is None]

    def close(self) -> None:
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._play(name) for name in PLANS))

    async def _play(self, stage_name: str) -> None:
        drills = [drill for drill in self.drills if drill.stage == stage_name]
        baseline = self._baseline and stage_name == BASELINE_STAGE
        if not drills and not baseline:
            self._unexpected[stage_name].set_result(set())
            return
        try:
            folder = self._folder / stage_name.replace(" ", "-")
            plan = PLANS[stage_name]
            async with (
                stage(folder, admin_dsn=self._admin_dsn, plan=plan, without=self._without) as made,
                load(made),
            ):
                if baseline:
                    await self._settle(BASELINE, healthy(made))
                for turn in sorted({drill.turn for drill in drills}):
                    await asyncio.gather(*(self._drill(drill, made) for drill in drills if drill.turn == turn))
                accounted = {alert for drill in drills for alert in (*drill.fires, *drill.also, *drill.mutes)}
                unexpected = made.pager.fired() - accounted - OF_A_BUSY_MACHINE - {"Watchdog"}
                self._unexpected[stage_name].set_result(unexpected)
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            for future in (*(self._outcomes[drill.name] for drill in drills), self._unexpected[stage_name]):
                if not future.done():
                    future.set_exception(error)
            if baseline and not self._outcomes[BASELINE].done():
                self._outcomes[BASELINE].set_exception(error)
            if not isinstance(error, Exception):
                raise

    async def _drill(self, drill: Drill, made: Stage) -> None:
        await self._settle(drill.name, held(drill, made))

    async def _settle(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            self._outcomes[name].set_result(await work)
        except Exception as error:  # noqa: BLE001  # the test that waits raises it
            self._outcomes[name].set_exception(error)

"""The supervisor of `serve --processes`: whatever becomes of a process, its place is filled again within a bound."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from runwire.assembly import PLAN, Assembly
from runwire.cli import heartbeat, supervisor
from runwire.cli.supervisor import Supervisor
from runwire.process import Context, Step
from runwire.settings import Role, Settings
from waiting import eventually

CHILD = str(Path(__file__).with_name("child.py"))


@dataclass
class Supervised:
    supervisor: Supervisor
    running: asyncio.Task[int]
    lines: list[Any]
    began: Path

    @property
    def processes(self) -> int:
        """How many it has started."""
        return len(self.began.read_text().split()) if self.began.exists() else 0

    def said(self, event: str) -> list[Any]:
        return [line for line in self.lines if line["event"] == event]

    async def heard(self, event: str) -> Any:
        return (await eventually(lambda: self.said(event), within_s=30))[0]


@asynccontextmanager
async def supervising(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *plan: str, program: tuple[str, ...] = (sys.executable, CHILD)
) -> AsyncIterator[Supervised]:
    """A supervisor of one place, whose processes are as planned. It looks often, and its limits are short."""
    monkeypatch.setenv("CHILD_BEGAN", str(folder / "began"))
    monkeypatch.setenv("CHILD_PLAN", " ".join(plan))
    for name, value in {"BEAT_S": 0.05, "STARTING_S": 0.5, "GRACE_S": 0.5, "_PAUSE_FIRST_S": 0.01}.items():
        monkeypatch.setattr(supervisor, name, value)
    settings = Settings(database_url="postgresql://nowhere/none", port=1, admin_port=0, drain_s=0.1)
    supervised = Supervisor(settings, dsn="", port=1, program=program)
    with capture_logs() as lines:
        running = asyncio.create_task(supervised.run())
        try:
            yield Supervised(supervised, running, lines, folder / "began")
            supervised.stop()
            assert await asyncio.wait_for(running, 30) == 0
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(("how", "doing"), [("starts", "starting"), ("drains", "draining")])
async def test_a_process_that_takes_too_long_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, doing: str
) -> None:
    """A migration may take any time, and one without a descriptor may drain."""
    async with supervising(tmp_path, monkeypatch, how, "serves") as it:
        line = await it.heard("process_overdue")
        assert (line["process"], line["doing"], line["log_level"]) == (0, doing, "error")
        assert (await it.heard("process_ended"))["code"] == -9
        await eventually(lambda: it.processes == 2, within_s=30)


async def test_a_process_that_never_says_a_word_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "STARTING_S", 1.0)
    async with supervising(tmp_path, monkeypatch, "mute", "serves") as it:
        assert (await it.heard("process_deaf"))["replaced"] == 1
        monkeypatch.setattr(heartbeat, "STARTING_S", 60.0)
        await eventually(lambda: it.processes >= 2, within_s=30)


async def test_a_process_that_does_not_end_with_the_others_is_killed_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervising(tmp_path, monkeypatch, "stays") as it:
        await eventually((tmp_path / "began-stays").exists, within_s=30)
        it.supervisor.stop()
        assert await asyncio.wait_for(it.running, 30) == 0
        assert [line["doing"] for line in it.said("process_overdue")] == ["draining"]
        assert it.said("process_ended") == []


async def test_once_one_has_served_a_refusal_of_another_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of agents that a deploy has broken keeps a restarted process away, and the service goes on."""
    async with supervising(tmp_path, monkeypatch, "serves_for_a_moment", "refuses", "serves") as it:
        await eventually(lambda: it.processes == 3, within_s=30)
        assert [line["code"] for line in it.said("process_ended")] == [1, 2]


async def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with supervising(tmp_path, monkeypatch, program=(str(tmp_path / "none"),)) as it:
        await eventually(lambda: len(it.said("process_not_started")) > 1, within_s=20)
        assert {(line["process"], line["why"]) for line in it.said("process_not_started")} == {(0, "ENOENT")}


async def test_a_process_is_silent_while_it_imports_its_agents_and_then_tells_what_it_does(database: str) -> None:
    """Imports keep the event loop for themselves, and may take longer than a process may be silent."""

    async def look(_context: Context) -> None:
        told.append((here.has_agents, here.migrating, here.started))

    told: list[tuple[bool, bool, bool]] = []
    plan = PLAN.adding(Step("look", look), after="database")
    here = Assembly(Settings(database_url=database, roles=(Role.OBSERVER,), admin_port=0), plan=plan)
    assert not here.has_agents
    async with here:
        assert told == [(True, False, False)]
        assert (here.started, here.stopping) == (True, False)
        here.stop()
        assert here.stopping

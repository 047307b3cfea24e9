"""Loops that raise, whatever it is, are begun again; the process says so while it lasts, and no longer."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from runwire.db import Attempts, Troubles
from runwire.duties import Duty, Role
from runwire.errors import ConstraintViolated, DatabaseUnavailable
from runwire.process import supervision
from runwire.process.supervision import Supervision
from runwire.telemetry.metrics import Metrics
from waiting import eventually


class Kept:
    """A loop under supervision that raises what it is told to, then goes on for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *raises: BaseException) -> None:
        monkeypatch.setattr(supervision, "AGAIN_FIRST_S", 0.01)
        monkeypatch.setattr(supervision, "STEADY_S", 0.05)
        self.metrics = Metrics()
        self.troubles = Troubles(lambda owner, count: self.metrics.role_unwell[owner].set(count))
        self._supervision = Supervision(self.troubles, restarted=self.metrics.loop_restarts.inc)
        self._raises = list(raises)
        self.begun = 0
        self.ends = asyncio.Event()

    async def loop(self) -> None:
        self.begun += 1
        if self._raises:
            raise self._raises.pop(0)
        await self.ends.wait()

    async def run(self) -> None:
        await self._supervision.keep(Duty.CLAIM, self.loop, name="worker")

    def metric(self, name: str) -> float | None:
        return self.metrics.out.registry.get_sample_value(name, {"role": "worker"})


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        DatabaseUnavailable("PostgreSQL: internal server error", sqlstate="XX000"),
        SystemExit(3),
        asyncio.CancelledError(),
        ExceptionGroup("several", [OSError(5, "EIO")]),
        BaseExceptionGroup("several", [SystemExit(3)]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_loop_that_raises_anything_is_begun_again_and_tells(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    kept = Kept(monkeypatch, error)
    with structlog.testing.capture_logs() as lines:
        running = asyncio.create_task(kept.run())
        await eventually(lambda: kept.begun == 2)
        await eventually(lambda: kept.metric("runwire_role_unwell") == 0)
        kept.ends.set()
        await running
    (line,) = [line for line in lines if line["event"] == "task_failed"]
    assert (line["task"], line["failures"]) == ("worker", 1)
    assert kept.metrics.out.registry.get_sample_value("runwire_loop_restarts_total") == 1


async def test_while_it_rests_the_duty_is_in_trouble_by_the_loops_name(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(monkeypatch, RuntimeError("what a user said"))
    monkeypatch.setattr(supervision, "AGAIN_FIRST_S", 60.0)
    running = asyncio.create_task(kept.run())
    await eventually(lambda: kept.metric("runwire_role_unwell") == 1)
    (trouble,) = kept.troubles.lasting(0)
    assert (trouble.name, trouble.why) == ("claim worker", "ended by RuntimeError")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kept.begun == 1


def test_attempts_wait_out_what_the_database_does_and_nothing_else() -> None:
    counts: list[tuple[str, int]] = []
    troubles = Troubles(lambda owner, count: counts.append((owner, count)))
    attempts = Attempts(Duty.OBSERVE, troubles, first_s=1.0, longest_s=3.0)
    assert attempts.pause_s == 0.0
    for error in (DatabaseUnavailable("PostgreSQL: io error"), ConstraintViolated("runs_pkey")):
        with attempts:
            raise error
    assert attempts.failures == 2
    assert 1.0 <= attempts.pause_s <= 2.0
    assert [trouble.why for trouble in troubles.lasting(0)] == ["constraint runs_pkey refused a value"]
    with pytest.raises(KeyError), attempts:
        raise KeyError
    with attempts:
        pass
    assert (attempts.failures, attempts.pause_s, troubles.lasting(0)) == (0, 0.0, [])
    assert counts == [(Role.OBSERVER, 1), (Role.OBSERVER, 0)]


def test_a_trouble_is_as_old_as_its_first_failure() -> None:
    troubles = Troubles()
    assert troubles.begin(Duty.CONNECT, "a", about="append 0")
    (first,) = troubles.lasting(0)
    assert not troubles.begin(Duty.CONNECT, "b", about="append 0")
    (again,) = troubles.lasting(0)
    assert (again.since, again.why) == (first.since, "b")
    assert troubles.lasting(60) == []
    assert not troubles.end(Duty.CONNECT, about="append 1")
    assert troubles.end(Duty.CONNECT, about="append 0")


async def test_an_outage_does_not_fill_the_log() -> None:
    attempts = Attempts(Duty.APPEND, Troubles())
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            attempts.failed(DatabaseUnavailable("PostgreSQL: io error"))
    assert len([line for line in lines if line["event"] == "database_unavailable"]) == 10

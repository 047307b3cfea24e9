"""A drill: a fault, the alerts it must raise and mute, and the runbook's way out of it, timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from drills.pager import FIRING, RESOLVED, Notification
from drills.programs import Prometheus
from drills.rules import is_burn_rate
from drills.stage import Stage

LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Drill:
    """`fault` injects up to its `yield`, which may say when it struck, and recovers after it.

    Every alert of `fires` must reach the pager, and be taken back after the recovery. Those of `mutes` must be active
    and inhibited meanwhile. `also` are alerts the fault may raise besides. Drills of one `turn` of a stage run at once.
    """

    name: str
    stage: str
    turn: int
    fault: Callable[[Stage], AsyncIterator[float | None]]
    what: str
    recovery: str
    runbook: str
    fires: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    mutes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    fires_within_s: float = 60.0
    resolves_within_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Course:
    """How it went for one alert: seconds after the fault, and after the recovery step."""

    alert: str
    bad_s: float | None
    firing_s: float
    resolved_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    drill: Drill
    courses: tuple[Course, ...]
    muted: tuple[str, ...]


async def held(drill: Drill, stage: Stage) -> Outcome:
    """The drill, from fault to recovery. Raises AssertionError with all that did not come about."""
    began = time.time()
    steps = drill.fault(stage)
    muted: set[str] = set()
    struck = await anext(steps) or began
    *heard, _ = results = await asyncio.gather(
        *(
            stage.pager.told(alert, FIRING, since=began, within_s=drill.fires_within_s, labels=drill.labels)
            for alert in drill.fires
        ),
        _mutes(drill, stage, muted),
        return_exceptions=True,
    )
    told = [one for one in heard if isinstance(one, Notification)]
    first = min((one.at for one in told), default=began)
    loud = stage.pager.fired(since=first) & set(drill.mutes)
    mended = time.time()
    await anext(steps, None)
    if problems := [one for one in results if isinstance(one, BaseException)]:
        raise AssertionError("\n".join(str(one) for one in problems)) from problems[0]
    done = {
        alert: await stage.pager.told(
            alert, RESOLVED, since=mended, within_s=drill.resolves_within_s, labels=drill.labels
        )
        for alert in drill.fires
    }
    assert not loud, f"muted, and heard of all the same: {sorted(loud)}"
    courses = [
        Course(
            alert,
            _after(struck, await _watcher(stage, alert).first_bad_at(alert, since=began, labels=drill.labels)),
            one.at - struck,
            done[alert].at - mended,
        )
        for alert, one in zip(drill.fires, told, strict=True)
    ]
    return Outcome(drill, tuple(courses), tuple(sorted(muted)))


async def _mutes(drill: Drill, stage: Stage, muted: set[str]) -> None:
    deadline = time.monotonic() + drill.fires_within_s
    while not muted.issuperset(drill.mutes):
        assert time.monotonic() < deadline, f"not muted: {sorted(set(drill.mutes) - muted)}"
        muted |= await stage.alertmanager.inhibited() & set(drill.mutes)
        await asyncio.sleep(LOOK_S)


def _watcher(stage: Stage, alert: str) -> Prometheus:
    return stage.watching[-1] if is_burn_rate(alert) else stage.prometheus


def _after(began: float, at: float | None) -> float | None:
    return None if at is None else at - began

"""A drill: a fault, the alerts it must raise and mute, and the runbook's way out of it, timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from drills.pager import FIRING, RESOLVED
from drills.pressure import BUSY, OF_A_BUSY_MACHINE, CpuWaits
from drills.rules import left_out
from drills.stage import Stage
from waiting import eventually

LOOK_S: Final = 0.2
GAP_S: Final = 1.0
"""Between two looks that saw the same it is taken to have been so all the time: five of them."""
SETTLED_S: Final = 3.0
"""After this long Alertmanager has told what it was going to tell at its groups' intervals of a second."""
GRACE_S: Final = 10.0
"""How long after its condition held somebody must have been told; the longest wait of a group is 3 s here."""


@dataclass(frozen=True, slots=True)
class Drill:
    """`fault` injects up to its `yield`, which may say when it struck, and recovers after it.

    Every alert of `fires` must reach the pager, and be taken back after the recovery. On a machine so busy that the
    fault does more than it should, those may be `overtaken_by` others: then they must fire, and be muted by them.
    Those of `mutes` must be active and inhibited meanwhile, by the first of `fires`. `also` are alerts the fault may
    raise besides. Drills of one `turn` of a stage run at once. Deadlines are long: only what fails takes as long.
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
    overtaken_by: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    fires_within_s: float = 180.0
    resolves_within_s: float = 180.0


@dataclass(frozen=True, slots=True)
class Course:
    """How it went for one alert: seconds after the fault, and of `resolved_s` after the recovery step.

    `overtaken`: nobody was told, because a higher alert that fired muted it. No `resolved_s`: the machine was so busy
    that the alert went on being true.
    """

    alert: str
    bad_s: float | None
    firing_s: float
    step_s: float
    resolved_s: float | None
    overtaken: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    drill: Drill
    courses: tuple[Course, ...]
    muted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Heard:
    alert: str
    at: float
    overtaken: bool = False


@dataclass(slots=True)
class _Looks:
    """Whether Alertmanager, which decides who is told, had an alert: each look's time and what it saw."""

    seen: list[tuple[float, bool]] = field(default_factory=list)

    async def look_at(self, drill: Drill, stage: Stage, alert: str) -> None:
        """Until it is cancelled; not at all where nothing is to be muted."""
        wanted = {"alertname": alert, **drill.labels}.items()
        while drill.mutes:
            asked = time.time()
            self.seen.append((asked, any(wanted <= one["labels"].items() for one in await stage.alertmanager.alerts())))
            await asyncio.sleep(LOOK_S)

    def had_it_throughout(self, since: float, until: float) -> bool:
        inside = [(at, had) for at, had in self.seen if since < at < until]
        dense = all(later - earlier < GAP_S for earlier, later in pairwise([since, *(at for at, _ in inside), until]))
        return dense and all(had for _, had in inside)


async def held(drill: Drill, stage: Stage) -> Outcome:
    """The drill, from fault to recovery. Raises AssertionError with all that did not come about."""
    await _silent(drill, stage)
    began = time.time()
    steps = drill.fault(stage)
    struck = await anext(steps) or began
    muted: set[str] = set()
    looks = _Looks()
    looking = asyncio.create_task(looks.look_at(drill, stage, drill.fires[0]))
    *heard, _ = results = await asyncio.gather(
        *(_heard(drill, stage, alert, since=began) for alert in drill.fires),
        _mutes(drill, stage, muted),
        return_exceptions=True,
    )
    mended = time.time()
    looking.cancel()
    [end] = await asyncio.gather(looking, return_exceptions=True)
    await anext(steps, None)
    if problems := [one for one in results if isinstance(one, BaseException)]:
        raise AssertionError("\n".join(str(one) for one in problems)) from problems[0]
    if isinstance(end, Exception):  # it could not look, so nothing is known of what was muted
        raise end
    told = [one for one in heard if isinstance(one, _Heard)]
    loud = {
        n.alert
        for n in stage.pager.seen
        if n.alert in drill.mutes
        and n.status == FIRING
        and told[0].at < n.at < mended
        # Where Alertmanager had lost what mutes it, as on a machine that stands still, it is heard of with good reason.
        and looks.had_it_throughout(n.at - SETTLED_S, n.at)
    }
    over = await asyncio.gather(*(_over(drill, stage, one, since=mended) for one in told))
    assert not loud, f"muted, and heard of all the same: {sorted(loud)}"
    courses = []
    for one, ended in zip(told, over, strict=True):
        bad = await stage.watcher(one.alert).first_bad_at(one.alert, since=began, labels=drill.labels)
        bad_s = None if bad is None else bad - struck
        resolved_s = None if ended is None else ended - mended
        courses.append(Course(one.alert, bad_s, one.at - struck, mended - struck, resolved_s, one.overtaken))
    return Outcome(drill, tuple(courses), tuple(sorted(muted)))


async def _silent(drill: Drill, stage: Stage) -> None:
    """Returns when none of the drill's alerts fires, for whatever reason: of one that does, nobody is told again.

    A drill before that failed has not waited for the end of its alerts, and a busy machine raises some by itself.
    """

    async def firing() -> set[str]:
        return {alert for alert in drill.fires for name in (alert, left_out(alert)) if await _fires(stage, name, drill)}

    async def silent() -> bool:
        assert not (still := await firing()), f"before the fault: {sorted(still)}"
        return True

    if await firing():
        await eventually(silent, within_s=drill.resolves_within_s)
        await asyncio.sleep(SETTLED_S)  # Alertmanager tells of the end before it can tell of the next beginning


async def _fires(stage: Stage, name: str, drill: Drill) -> bool:
    wanted = {"alertname": name, **drill.labels}.items()
    watcher = stage.watcher(name.removesuffix(left_out("")))
    return any(one["state"] == "firing" and wanted <= one["labels"].items() for one in await watcher.alerts())


async def _heard(drill: Drill, stage: Stage, alert: str, *, since: float) -> _Heard:
    """When the pager was told, or, for a drill that may be overtaken, when the alert was seen to fire and be muted."""
    deadline, missing = time.monotonic() + drill.fires_within_s, f"{alert} not firing"
    if alert in stage.without:
        held_s = await _condition_held(drill, stage, alert, since=since)
        deadline, missing = (
            time.monotonic() + GRACE_S,
            f"{alert} not firing, though its condition held after {held_s:.1f} s",
        )
    while True:
        told = stage.pager.found(alert, FIRING, since=since, labels=drill.labels)
        if told is not None:
            return _Heard(alert, told.at)
        firing = await stage.firing() if drill.overtaken_by else set()
        if alert in firing and firing & set(drill.overtaken_by) and alert in await stage.alertmanager.inhibited():
            return _Heard(alert, time.time(), overtaken=True)
        assert time.monotonic() < deadline, f"{missing}; {stage.pager.summary(since=since)}"
        await asyncio.sleep(LOOK_S)


async def _condition_held(drill: Drill, stage: Stage, alert: str, *, since: float) -> float:
    """Seconds after which the condition of a rule that is left out had held for as long as the rule asks for."""
    await eventually(lambda: _fires(stage, left_out(alert), drill), within_s=drill.fires_within_s)
    return time.time() - since


async def _mutes(drill: Drill, stage: Stage, muted: set[str]) -> None:
    """Adds to `muted` until all that must be are. With a rule left out there may be nothing that mutes, or is muted."""
    if stage.without & {*drill.fires, *drill.mutes}:
        return
    deadline = time.monotonic() + drill.fires_within_s
    while not muted.issuperset(drill.mutes):
        assert time.monotonic() < deadline, f"not muted: {sorted(set(drill.mutes) - muted)}"
        muted |= await stage.alertmanager.inhibited() & set(drill.mutes)
        await asyncio.sleep(LOOK_S)


async def _over(drill: Drill, stage: Stage, heard: _Heard, *, since: float) -> float | None:
    """When the pager was told of the end; None when a machine that is busy all the time keeps it up.

    Of an alert that is muted when it ends, Alertmanager tells no end: for a drill that may be overtaken it is enough
    that the alert no longer fires.
    """
    deadline = time.monotonic() + drill.resolves_within_s
    waits = CpuWaits()
    silent_at: float | None = None
    while True:
        told = stage.pager.found(heard.alert, RESOLVED, since=since, labels=drill.labels)
        if told is not None:
            return told.at
        if drill.overtaken_by:
            firing = heard.alert in await stage.firing()
            silent_at = None if firing else silent_at or time.time()
            if silent_at is not None and time.time() - silent_at > SETTLED_S:
                return silent_at
        if time.monotonic() > deadline and heard.alert in OF_A_BUSY_MACHINE and waits.share > BUSY:
            return None
        assert time.monotonic() < deadline, f"{heard.alert} not resolved; {stage.pager.summary(since=since)}"
        await asyncio.sleep(LOOK_S)

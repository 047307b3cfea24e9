"""One drill as it would be in production: no time scale, no setting changed. By hand: `make drill-full`, 7 minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from drills.catalogue import JOINED
from drills.pager import FIRING, RESOLVED
from drills.pressure import LAGS
from drills.report import commit, write_section
from drills.stage import Plan, Stage, stage
from drills.watched import watched_runs
from waiting import eventually

PAGED_WITHIN_S: Final = 20.0
LEAD_S: Final = 30.0
"""Something to have been healthy before."""
AFTERMATH_S: Final = 480.0
"""The rules that look at five minutes see the outage for so long, and their groups and a busy machine take a while."""
PAGES: Final[Mapping[str, Mapping[str, str]]] = {"PublisherDown": {}, "OldestEventUnpublished": {"level": "at_once"}}
"""Alerts that must page, and which of their levels."""
MUTED: Final = (*LAGS, "OutboxBacklog")


@dataclass
class Timeline:
    """The events of the drill, in seconds after the kill."""

    killed_at: float
    lines: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str, *, at: float | None = None) -> float:
        seconds = (at or time.time()) - self.killed_at
        self.lines.append((seconds, what))
        return seconds

    def table(self) -> str:
        rows = [f"| {seconds:.1f} | {what} |" for seconds, what in sorted(self.lines)]
        return "\n".join([f"Commit `{commit()}`.", "", "| s | what |", "|---|---|", *rows]) + "\n"


@pytest.mark.timeout(1100)
def test_somebody_is_paged_soon_after_the_publisher_was_killed_and_nothing_is_lost(
    tmp_path: Path, postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    timeline = asyncio.run(_killed(tmp_path, postgres_dsn))
    with capsys.disabled():
        print(f"\n{timeline.table()}")  # noqa: T201
    write_section("full-scale", timeline.table())


async def _killed(folder: Path, admin_dsn: str) -> Timeline:
    plan = Plan(JOINED, alone=True, burn_rates=False, scale=1.0, quick=False)
    async with stage(folder, admin_dsn=admin_dsn, plan=plan) as made, watched_runs(made) as runs:
        await asyncio.sleep(LEAD_S)
        assert await made.firing() == {"Watchdog"}
        finished_before = runs.finished
        made.member("publisher-0").kill()
        timeline = Timeline(time.time())
        timeline.note(f"SIGKILL of the only publisher; {finished_before} runs had been watched to their end")
        await asyncio.gather(*(_paged(made, alert, timeline) for alert in PAGES))
        await eventually(lambda: _inhibited(made, "OutboxBacklog"), within_s=60)
        timeline.note(f"`OutboxBacklog` fires and is muted; {runs.open} runs are watched and stand still")
        assert _told(made, timeline) == set(PAGES)
        restarted = time.time()
        timeline.note("A publisher is started", at=restarted)
        await made.member("publisher-0").start(within_s=60)
        for alert in PAGES:
            over = await made.pager.told(alert, RESOLVED, since=restarted, within_s=60)
            timeline.note(f"told that `{alert}` is over", at=over.at)
        waiting = await runs.whole(begun_before=restarted, within_s=60)
        timeline.note(f"all {waiting} runs begun before the start are watched to their end")
        await eventually(lambda: _only_watchdog(made), within_s=AFTERMATH_S)
        for alert in sorted(_told(made, timeline) - set(PAGES)):
            _aftermath(made, alert, restarted, timeline)
        timeline.note("nothing fires but `Watchdog`")
        whole = await runs.whole(begun_before=time.time(), within_s=60)
        await _stored_whole(made)
        timeline.note(f"all {whole} runs were watched from event 1 to 13, each event once; the log holds the same")
    return timeline


async def _paged(made: Stage, alert: str, timeline: Timeline) -> None:
    page = await made.pager.told(alert, FIRING, since=timeline.killed_at, within_s=60, labels=PAGES[alert])
    bad = await made.prometheus.first_bad_at(alert, since=timeline.killed_at, labels=PAGES[alert])
    timeline.note(f"`{alert}`: first bad evaluation", at=bad)
    after_s = timeline.note(f"`{alert}`: paged", at=page.at)
    assert page.receiver == "page"
    assert after_s <= PAGED_WITHIN_S


def _told(made: Stage, timeline: Timeline) -> set[str]:
    return made.pager.fired(since=timeline.killed_at) - {"Watchdog"}


def _aftermath(made: Stage, alert: str, since: float, timeline: Timeline) -> None:
    """An alert that looks back and is no longer muted once a publisher lives must be one of the muted, and be over."""
    assert alert in MUTED, alert
    fired = made.pager.found(alert, FIRING, since=since)
    over = made.pager.found(alert, RESOLVED, since=since)
    assert fired is not None
    timeline.note(f"aftermath: `{alert}` looks back at the outage", at=fired.at)
    timeline.note(f"aftermath: `{alert}` is over", at=over.at if over is not None else None)


async def _inhibited(made: Stage, alert: str) -> bool:
    return alert in await made.alertmanager.inhibited()


async def _only_watchdog(made: Stage) -> bool:
    told = {(n.alert, n.status) for n in made.pager.seen}
    left = {alert for alert, status in told if status == FIRING and (alert, RESOLVED) not in told}
    return await made.firing() == {"Watchdog"} and left - set(LAGS) <= {"Watchdog"}


async def _stored_whole(made: Stage) -> None:
    rows = await made.sql(
        "SELECT r.run_id FROM runs AS r WHERE r.agent = 'golden' AND r.state = 'finished' AND (r.last_seq <> 13"
        " OR (SELECT array_agg(seq ORDER BY seq) FROM run_events AS e WHERE e.run_id = r.run_id)"
        " IS DISTINCT FROM ARRAY(SELECT generate_series(1::bigint, 13)))"
    )
    assert rows == []
    assert await made.prometheus.value("max(runwire_invariant_violating_runs)") == 0

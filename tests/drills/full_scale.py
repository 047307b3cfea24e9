"""One drill as it would be in production: no time scale, no setting changed. By hand: `make drill-full`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from drills.catalogue import JOINED
from drills.pager import FIRING, RESOLVED
from drills.stage import Plan, load, stage

PAGED_S = 15.0 + 5.0 + 1.0
"""The limit of the heartbeat's age, the observer's period, and a second for scrape, evaluation and the way."""


@pytest.mark.timeout(180)
def test_somebody_is_paged_soon_after_the_publisher_was_killed(
    tmp_path: Path, postgres_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paged_s, over_s = asyncio.run(_killed(tmp_path, postgres_dsn))
    with capsys.disabled():
        print(f"\npaged {paged_s:.1f} s after the kill; told of the end {over_s:.1f} s after the start")  # noqa: T201
    assert paged_s <= PAGED_S


async def _killed(folder: Path, admin_dsn: str) -> tuple[float, float]:
    plan = Plan(JOINED, alone=True, scale=1.0, quick=False)
    async with stage(folder, admin_dsn=admin_dsn, plan=plan) as made, load(made):
        await asyncio.sleep(10)  # something to have been healthy before
        killed = time.time()
        made.member("publisher-0").kill()
        page = await made.pager.told("PublisherDown", FIRING, since=killed, within_s=60)
        mended = time.time()
        await made.member("publisher-0").start()
        over = await made.pager.told("PublisherDown", RESOLVED, since=mended, within_s=60)
        return page.at - killed, over.at - mended

"""Every kind of fault once, under load: nothing lost, nothing twice, order kept. The long form is `make chaos`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.campaign import Scale, campaign
from chaos.faults import FAULTS

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(420),
    pytest.mark.skipif(os.geteuid() != 0, reason="a file system that can be filled up has to be mounted by root"),
]


async def test_nothing_is_lost_twice_or_out_of_order_through_every_kind_of_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = 1
    report = await campaign(Scale(), folder=tmp_path, seed=seed)
    assert set(report.faults) == set(FAULTS)
    assert report.events > 1000
    assert report.load.tally.resumes > 0
    assert report.probes.refused > 1000
    assert report.probes.crossed == []
    assert min(report.content.counts[what] for what in ("parts", "signals heard", "timers fired")) > 0
    with capsys.disabled():
        print(  # noqa: T201  # the seed and what it did
            f"\nchaos seed={seed}: {report.faults.total()} faults of {len(report.faults)} kinds, {report.runs} runs, "
            f"{report.events} events in {report.took_s:.0f} s; {report.resumed} walks resumed, "
            f"{report.load.unanswered} calls unanswered, {report.load.refused} refused; {report.probes.refused} "
            f"attempts to cross refused, {report.probes.unavailable} unavailable; {report.load.tally}; "
            f"{dict(report.content.counts)}; {report.content.tally}"
        )

"""Many hosts lose one part after the other, and no client loses anything. `make scale-out-test` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.scale_out import Scale, held_together

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]


async def test_no_client_loses_anything_while_each_part_of_many_hosts_goes_away_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = Scale(runs=150, spread_s=2.0, node_s=2.4, nats_away_s=1.5, rest_s=0.2, within_s=150, back_within_s=40)
    outcome = await held_together(scale, folder=tmp_path, seed=1)
    assert outcome.events >= 150 * 13
    assert outcome.tally.cut + outcome.tally.refused > 0, "clients have felt what was taken away"
    with capsys.disabled():
        print(f"\nscale-out: {outcome}")  # noqa: T201  # what it saw

"""The long form, by hand: `make scale-out-test`. Two thousand clients, ten seconds without NATS."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.scale_out import Scale, held_together

pytestmark = pytest.mark.timeout(900)


async def test_two_thousand_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale = Scale(runs=1985, spread_s=30.0, node_s=4.0, nats_away_s=10.0, rest_s=3.0, within_s=600)
    outcome = await held_together(scale, folder=tmp_path, seed=1)
    with capsys.disabled():
        print(f"\nscale-out: {outcome}")  # noqa: T201  # what it saw

"""A machine whose clock is wrong serves as any other, and its lags are right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import httpx
import pytest

from runwire.assembly import Assembly
from runwire.stream import Streams
from server.calls import Api, streaming
from waiting import eventually

WRONG_S: Final = 300.0
REAL_NS: Final[Callable[[], int]] = time.time_ns


@pytest.fixture(autouse=True, params=[WRONG_S, -WRONG_S], ids=["ahead", "behind"])
def ahead_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """The clock of this machine is wrong before the service starts; PostgreSQL has a process of its own."""
    by_s: float = request.param
    by_ns = int(by_s * 1e9)
    monkeypatch.setattr(time, "time_ns", lambda: REAL_NS() + by_ns)
    return by_s


async def test_lags_are_right_on_a_machine_whose_clock_is_wrong(
    service: Assembly, api: Api, admin: httpx.AsyncClient, ahead_s: float
) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    async with streaming(api, "r") as events, streaming(api, "r", query="?parts=*") as mixed:
        await events.frames(2)
        await mixed.frames(2)
        await eventually(lambda: len(service.part(Streams).sessions) == 2, within_s=30)

        async def both_observed() -> bool:
            await api.append("r", [{"type": "DebugTrace", "fn": "x"}], fence=fence)
            await api.write_part("r", "words", fence=fence)
            found = await values(admin)
            return min(found[f"runwire_{kind}_lag_seconds_sum"] for kind in ("delivery", "part")) > 0

        await eventually(both_observed, within_s=30)
    found = await values(admin)
    for kind in ("publish", "delivery", "part"):
        mean_s = found[f"runwire_{kind}_lag_seconds_sum"] / found[f"runwire_{kind}_lag_seconds_count"]
        assert 0 < mean_s < WRONG_S / 10, kind
    assert abs(found["runwire_clock_offset_seconds"] - ahead_s) <= found["runwire_clock_offset_bound_seconds"] + 1
    assert found["runwire_clock_offset_bound_seconds"] < WRONG_S / 10


async def values(admin: httpx.AsyncClient) -> dict[str, float]:
    lines = (await admin.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

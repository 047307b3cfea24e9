from __future__ import annotations

import msgspec
import pytest

from agents.walk import walk
from runwire.agents.golden import Plan, golden
from runwire.model.event import RUN_FINISHED, RUN_STARTED, debug_trace, node_finished, node_started

NODES = ["EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown"]


async def test_golden_makes_exactly_its_thirteen_events_in_order() -> None:
    walked = await walk(golden, {})

    steps = [event for name in NODES for event in (node_started(name), node_finished(name))]
    assert walked.events == [RUN_STARTED, steps[0], debug_trace("ensureDevice.check"), *steps[1:], RUN_FINISHED]
    assert len(walked.events) == 13


async def test_golden_takes_no_input_and_is_a_graph_that_can_run() -> None:
    golden.check()
    assert (await walk(golden, {})).state == {"delay_ms": 0}


@pytest.mark.parametrize("node", NODES)
async def test_a_delay_slows_every_node_down(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("runwire.agents.golden.asyncio.sleep", sleep)
    walked = await walk(golden, {"delay_ms": 60_000}, crash_in=node)

    assert pauses == [60.0] * 6
    assert all(declared.timeout_s > 60 for declared in golden.nodes.values())
    assert walked.failed is None


@pytest.mark.parametrize("delay_ms", [-1, 60_001, "1", None])
def test_a_delay_out_of_bounds_is_refused(delay_ms: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"delay_ms": delay_ms}, Plan)

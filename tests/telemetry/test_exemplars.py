"""Exemplars: what a sampled run did to a histogram leads to its trace, and the runs nobody traces leave none."""

from __future__ import annotations

import re

import pytest

from pipeline import RecordingBus, Stages, stages
from runwire.agents.golden import golden
from runwire.orchestrate import StartRequest
from waiting import eventually

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
LEADING = ("publish_lag", "time_to_first_node", "node_duration", "run_duration")


async def walked(s: Stages, *, flags: str) -> None:
    """A golden run, from its start to the bus."""
    traceparent = f"00-{TRACE}-00f067aa0ba902b7-{flags}"
    await s.control.start(StartRequest(traceparent=traceparent, sampled=flags == "01"))
    worker = s.worker()
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)
    publisher = s.publisher(RecordingBus())
    await publisher.sweep()
    while await publisher.publish_pending():
        pass
    await publisher.aclose()


def leading(s: Stages) -> set[tuple[str, str]]:
    """(histogram, trace id) of every exemplar of a scrape."""
    body, _ = s.metrics.exposition(OPENMETRICS)
    return set(
        re.findall(r'^runwire_(\w+)_seconds_bucket\{.*# \{trace_id="(\w+)"\}', body.decode(), flags=re.MULTILINE)
    )


@pytest.mark.parametrize(("flags", "named"), [("01", set(LEADING)), ("00", set())])
async def test_histograms_lead_to_the_traces_of_sampled_runs(flags: str, named: set[str], database: str) -> None:
    async with stages(database, golden) as s:
        await walked(s, flags=flags)
        assert leading(s) == {(name, TRACE) for name in named}
        assert s.metrics.publish_lag.count == 13

"""Our rendering of counters and gauges is prometheus_client's, byte for byte."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from runwire.archive import ArchiveMetrics
from runwire.content.part_metrics import PartMetrics
from runwire.observe import ObserverMetrics
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.text_format import TextFormat

AWKWARD = ["plain", 'a "quoted" one', "back\\slash", "two\nlines", "snow \u2603", ""]


@pytest.mark.parametrize("openmetrics", [True, False])
def test_it_renders_as_the_library_does_at_the_first_scrape_and_after_numbers_have_changed(openmetrics: bool) -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    jobs = Counter("jobs", 'Some "jobs" of a\nback\\slash.', ["kind", "also"], registry=registry)
    level = Gauge("level", "A level.", ["z", "a"], registry=registry)
    for n, value in enumerate(AWKWARD):
        jobs.labels(value, "x").inc(n)
        level.labels(value, value).set([0.1, math.inf, -math.inf, math.nan, 1e21, 3][n])
    rendering = TextFormat(openmetrics=openmetrics)
    library = generate_openmetrics if openmetrics else generate_latest
    for _ in range(2):
        assert rendering.render(registry) == library(registry).decode()
        jobs.labels("plain", "x").inc(1234567.5)
        level.labels("new", "one").set(7)


@pytest.mark.parametrize("openmetrics", [True, False])
def test_what_a_process_exports_is_what_the_library_would_export(openmetrics: bool) -> None:
    metrics = Metrics({"golden": ["Ping"]})
    ObserverMetrics(metrics.out)
    ArchiveMetrics(metrics.out)
    PartMetrics(metrics.out)
    library = generate_openmetrics if openmetrics else generate_latest
    theirs, ours = (
        [line for line in text.splitlines() if not line.startswith("process_")]
        for text in (
            library(metrics.out.registry).decode(),
            TextFormat(openmetrics=openmetrics).render(metrics.out.registry),
        )
    )
    assert ours == theirs

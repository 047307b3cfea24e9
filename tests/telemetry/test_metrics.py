from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from runwire import errors
from runwire.archive import ArchiveMetrics
from runwire.content import ContentMetrics
from runwire.content.part_metrics import PartMetrics
from runwire.model.event import EventType
from runwire.observe import ObserverMetrics
from runwire.process.metrics import PlaceMetrics
from runwire.telemetry.histogram import Histogram
from runwire.telemetry.labels import LABEL_LIMIT
from runwire.telemetry.loop_lag import LoopLagProbe
from runwire.telemetry.metrics import LAG_BUCKETS_S, Metrics

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
AGENTS = {"golden": ["OpenApp", "Ping"], "triage": ["Classify"]}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def families(metrics: Metrics, *, openmetrics: bool = True) -> list[Metric]:
    body, _ = metrics.exposition(OPENMETRICS if openmetrics else "")
    parse = parse_openmetrics if openmetrics else parse_text
    return list(parse(body.decode()))


def ours(metrics: Metrics) -> Iterator[Metric]:
    return (family for family in families(metrics) if family.name.startswith("runwire_"))


def value(metrics: Metrics, name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families(metrics)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found


def test_what_is_declared_is_what_a_scrape_has() -> None:
    exported: dict[str, tuple[str, str, dict[str, set[str]]]] = {}
    metrics = Metrics(AGENTS)
    ObserverMetrics(metrics.out)
    ArchiveMetrics(metrics.out)
    ContentMetrics(metrics.out)
    PartMetrics(metrics.out)
    PlaceMetrics(metrics.out)
    for family in ours(metrics):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels: dict[str, set[str]] = {}
        for sample in family.samples:
            for label, one in sample.labels.items():
                if label != "le":
                    labels.setdefault(label, set()).add(one)
        exported[name] = (family.type, family.documentation, labels)
    assert exported == {
        one.name: (one.kind, one.meaning, {label: set(values) for label, values in one.labels.items()})
        for one in metrics.out.declared
    }


def test_no_label_has_values_that_callers_choose() -> None:
    """Names of agents and nodes are bounded; all other labels have values from the code."""
    one, many = ({f"agent{n}": [f"Node{n}"] for n in range(agents)} for agents in (LABEL_LIMIT + 1, 40 * LABEL_LIMIT))
    labels: list[dict[str, dict[str, tuple[str, ...]]]] = []
    for agents in (one, many):
        metrics = Metrics(agents)
        ObserverMetrics(metrics.out, agents=agents)
        ArchiveMetrics(metrics.out)
        ContentMetrics(metrics.out)
        PartMetrics(metrics.out)
        PlaceMetrics(metrics.out)
        labels.append({family.name: dict(family.labels) for family in metrics.out.declared})
    assert labels[0] == labels[1]
    named = {label for family in labels[0].values() for label in family}
    assert not named & {"run", "run_id", "client", "tenant", "session", "label", "part", "name", "signal_name"}
    assert max(len(values) for family in labels[0].values() for values in family.values()) <= LABEL_LIMIT + 2


@pytest.mark.parametrize("openmetrics", [True, False])
def test_every_series_exists_at_zero_from_the_start_in_both_formats(openmetrics: bool) -> None:
    seen = 0
    for family in families(Metrics(AGENTS), openmetrics=openmetrics):
        if family.name.startswith("runwire_") and family.name != "runwire_build_info":
            seen += len(family.samples)
            assert {sample.value for sample in family.samples} == {0.0}, family.name
    assert seen > 200


def test_there_are_no_created_samples() -> None:
    for accept in (OPENMETRICS, ""):
        assert b"_created" not in Metrics(AGENTS).exposition(accept)[0]


def test_openmetrics_is_negotiated() -> None:
    metrics = Metrics()
    assert metrics.exposition(OPENMETRICS)[1].startswith("application/openmetrics-text; version=1.0.0")
    assert metrics.exposition(OPENMETRICS)[0].endswith(b"# EOF\n")
    assert metrics.exposition("")[1].startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in metrics.exposition("")[0]


def test_two_apps_in_one_interpreter_count_apart() -> None:
    one, other = Metrics(AGENTS), Metrics(AGENTS)
    one.events_published.inc(3)
    assert value(one, "runwire_events_published_total") == 3
    assert value(other, "runwire_events_published_total") == 0


def test_an_exemplar_carries_the_trace_id_in_openmetrics_only() -> None:
    metrics = Metrics()
    metrics.publish_lag.observe(0.03, TRACE)
    (found,) = [s.exemplar for f in families(metrics) for s in f.samples if s.exemplar]
    assert (found.labels, found.value) == ({"trace_id": TRACE}, 0.03)
    assert TRACE.encode() not in metrics.exposition("")[0]


def test_a_value_on_an_edge_counts_in_the_bucket_of_that_edge() -> None:
    metrics = Metrics()
    metrics.publish_lag.observe(0.1)
    assert value(metrics, "runwire_publish_lag_seconds_bucket", le="0.1") == 1
    assert value(metrics, "runwire_publish_lag_seconds_bucket", le="0.05") == 0


def spread(count: int) -> list[float]:
    return [((i * 7919) % 4001) / 100 - 1 for i in range(count)]


@pytest.mark.parametrize(
    "values",
    [
        *map(spread, (0, 1, 9, 10, 500)),
        pytest.param([0.003] * 12, id="one bucket"),
        pytest.param([0.003] * 11 + [7.0], id="one later"),
        pytest.param([0.003] * 11 + [1e6], id="one beyond"),
        pytest.param([1e6] * 12, id="all beyond"),
        pytest.param([0.0] * 12, id="zeros"),
        pytest.param([-1.0] * 11 + [0.003], id="set back"),
    ],
)
def test_many_observations_at_once_equal_as_many_single_ones(values: list[float]) -> None:
    one_by_one, at_once = Histogram(LAG_BUCKETS_S), Histogram(LAG_BUCKETS_S)
    for seconds in values:
        one_by_one.observe(seconds)
    at_once.observe_many(iter(values))
    assert at_once.snapshot()[0] == one_by_one.snapshot()[0]
    assert at_once.sum == pytest.approx(one_by_one.sum)
    assert at_once.count == len(values)


def test_a_clock_that_was_set_back_does_not_make_a_sum_fall() -> None:
    histogram = Histogram(LAG_BUCKETS_S)
    histogram.observe(-3.0)
    assert (histogram.count, histogram.sum) == (1, 0.0)


def test_names_nobody_declared_here_count_as_external() -> None:
    metrics = Metrics(AGENTS)
    metrics.runs_started["someone-elses"].inc()
    metrics.runs_finished["someone-elses", "failed"].inc()
    metrics.node_duration["TheirNode", "timeout"].observe(2.0)
    assert value(metrics, "runwire_runs_started_total", agent="external") == 1
    assert value(metrics, "runwire_runs_finished_total", agent="external", outcome="failed") == 1
    assert value(metrics, "runwire_node_duration_seconds_count", node="external", outcome="timeout") == 1
    with pytest.raises(KeyError):
        metrics.node_duration["Ping", "exploded"]


def test_a_scrape_stays_under_a_thousand_samples_however_much_is_declared() -> None:
    metrics = Metrics({f"agent{i}": [f"Node{i}x{j}" for j in range(5)] for i in range(40)})
    metrics.node_duration["Node39x4", "finished"].observe(0.2)
    metrics.runs_started["agent39"].inc()
    assert value(metrics, "runwire_node_duration_seconds_count", node="other", outcome="finished") == 1
    assert value(metrics, "runwire_runs_started_total", agent="other") == 1
    ObserverMetrics(metrics.out)
    ArchiveMetrics(metrics.out)
    ContentMetrics(metrics.out)
    PartMetrics(metrics.out)
    PlaceMetrics(metrics.out)
    assert sum(len(family.samples) for family in families(metrics)) <= 1000


def test_an_append_failure_is_counted_under_the_code_its_caller_gets() -> None:
    storage = {kind.code for kind in errors.StorageUnavailable.__subclasses__()}
    codes = {kind.code for kind in errors.AppendError.__subclasses__()} | {errors.RunNotFound.code} | storage
    assert codes == set(errors.counted_by("append_failures"))


def test_counters_are_found_by_the_model_s_own_enums() -> None:
    metrics = Metrics()
    metrics.events_appended[EventType.DEBUG_TRACE].inc(2)
    assert value(metrics, "runwire_events_appended_total", type="DebugTrace") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_process_reports_its_cpu_and_memory() -> None:
    names = {family.name for family in families(Metrics())}
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} <= names


async def test_the_loop_probe_measures_how_long_the_loop_was_held_up() -> None:
    metrics = Metrics()
    probe = LoopLagProbe(metrics.event_loop_lag, every_s=0.01)
    measuring = asyncio.create_task(probe.measure())
    await asyncio.sleep(0)

    def hold_up() -> None:
        for _ in range(4_000_000):
            pass

    hold_up()
    assert await measuring > 0.01
    assert metrics.event_loop_lag.count == 1

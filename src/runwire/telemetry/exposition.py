"""A process's series, and how a scrape reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from runwire.telemetry.histogram import Histogram, HistogramFamily
from runwire.telemetry.text_format import TextFormat

PREFIX: Final = "runwire_"


class _WhileKnown(Collector):
    """A gauge without samples, not with old ones, while nobody knows its value."""

    def __init__(self, gauge: Gauge, known: Callable[[], bool]) -> None:
        self._gauge = gauge
        self._known = known

    def describe(self) -> Iterable[Metric]:
        return self._gauge.describe()

    def collect(self) -> Iterable[Metric]:
        return self._gauge.collect() if self._known() else ()


@dataclass(frozen=True, slots=True)
class Declared:
    """One family as it was declared: the row of docs/telemetry.md. `labels` has the values of each label."""

    name: str
    kind: str
    unit: str
    labels: Mapping[str, tuple[str, ...]]
    meaning: str


class Exposition:
    """Series in a registry of their own: two of these in one interpreter do not meet.

    Names are given without the `runwire_` prefix, those of counters without `_total`. A family with one label
    gets it as `label=values` and is a mapping from value to bound series, each of them exported at 0 already.
    `meaning` is the text of a scrape and of docs/telemetry.md. The unit of a name in seconds is known.
    """

    def __init__(self) -> None:
        # `_created` samples would double the scrape, and some collectors take their epoch values for counts.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self.declared: list[Declared] = []
        self._histograms: list[HistogramFamily] = []
        self._formats = {openmetrics: TextFormat(openmetrics=openmetrics) for openmetrics in (False, True)}

    def counter(self, name: str, meaning: str, *, unit: str = "") -> Counter:
        self._declare(f"{name}_total", "counter", unit, {}, meaning)
        return Counter(PREFIX + name, meaning, registry=self.registry)

    def counters(self, name: str, meaning: str, *, unit: str = "", **label: Iterable[str]) -> dict[str, Counter]:
        labels, series = _one_label(label)
        family = self.counter_family(name, meaning, unit=unit, labels=labels, series=series)
        return {value: counter for (value,), counter in family.items()}

    def counter_family(
        self, name: str, meaning: str, *, unit: str, labels: Sequence[str], series: Sequence[tuple[str, ...]]
    ) -> dict[tuple[str, ...], Counter]:
        self._declare(f"{name}_total", "counter", unit, _values(labels, series), meaning)
        family = Counter(PREFIX + name, meaning, labels, registry=self.registry)
        return {values: family.labels(*values) for values in series}

    def gauge(self, name: str, meaning: str, *, unit: str = "", known: Callable[[], bool] | None = None) -> Gauge:
        """With `known`, exported only while that is true."""
        self._declare(name, "gauge", unit, {}, meaning)
        return self._registered(Gauge(PREFIX + name, meaning, registry=None), known)

    def gauges(
        self,
        name: str,
        meaning: str,
        *,
        unit: str = "",
        known: Callable[[], bool] | None = None,
        **label: Iterable[str],
    ) -> dict[str, Gauge]:
        labels, series = _one_label(label)
        self._declare(name, "gauge", unit, _values(labels, series), meaning)
        family = self._registered(Gauge(PREFIX + name, meaning, labels, registry=None), known)
        return {value: family.labels(value) for (value,) in series}

    def _registered(self, gauge: Gauge, known: Callable[[], bool] | None) -> Gauge:
        self.registry.register(gauge if known is None else _WhileKnown(gauge, known))
        return gauge

    def histogram(self, name: str, meaning: str, *, edges: Sequence[float], unit: str = "") -> Histogram:
        return self.family(name, meaning, edges=edges, unit=unit).series[()]

    def histograms(
        self, name: str, meaning: str, *, edges: Sequence[float], unit: str = "", **label: Iterable[str]
    ) -> dict[str, Histogram]:
        labels, series = _one_label(label)
        family = self.family(name, meaning, edges=edges, unit=unit, labels=labels, series=series)
        return {value: histogram for (value,), histogram in family.series.items()}

    def family(
        self,
        name: str,
        meaning: str,
        *,
        edges: Sequence[float],
        unit: str = "",
        labels: Sequence[str] = (),
        series: Sequence[tuple[str, ...]] = ((),),
    ) -> HistogramFamily:
        self._declare(name, "histogram", unit, _values(labels, series), meaning)
        family = HistogramFamily(PREFIX + name, meaning, edges=edges, labels=labels, series=series)
        self._histograms.append(family)
        return family

    def _declare(self, name: str, kind: str, unit: str, labels: Mapping[str, tuple[str, ...]], meaning: str) -> None:
        known = "seconds" if re.search("_seconds(_|$)", name) else ""
        self.declared.append(Declared(PREFIX + name, kind, unit or known, labels, meaning))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body and Content-Type of a scrape: OpenMetrics, with exemplars, when `accept` asks for it."""
        _, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        rendered = [family.render(exemplars=openmetrics) for family in self._histograms]
        # The registry comes last: in OpenMetrics it ends with the `# EOF` line.
        rendered.append(self._formats[openmetrics].render(self.registry))
        return "".join(rendered).encode(), content_type


def _one_label(label: Mapping[str, Iterable[str]]) -> tuple[tuple[str], list[tuple[str, ...]]]:
    ((name, values),) = label.items()
    return (name,), [(str(value),) for value in values]


def _values(labels: Sequence[str], series: Iterable[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The distinct values of each label, in the order of their first series."""
    columns = list(zip(*series, strict=True))
    return {label: tuple(dict.fromkeys(column)) for label, column in zip(labels, columns, strict=False)}

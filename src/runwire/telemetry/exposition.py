"""A process's series, and how a scrape reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


class Exposition:
    """Series in a registry of their own: two of these in one interpreter do not meet.

    Names are given without the `runwire_` prefix, those of counters without `_total`. A family with one label
    gets it as `label=values` and is a mapping from value to bound series, each of them exported at 0 already.
    """

    def __init__(self) -> None:
        # `_created` samples would double the scrape, and some collectors take their epoch values for counts.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self._histograms: list[HistogramFamily] = []
        self._formats = {openmetrics: TextFormat(openmetrics=openmetrics) for openmetrics in (False, True)}

    def counter(self, name: str, documentation: str) -> Counter:
        return Counter(PREFIX + name, documentation, registry=self.registry)

    def counters(self, name: str, documentation: str, **label: Iterable[str]) -> dict[str, Counter]:
        ((label_name, values),) = label.items()
        family = Counter(PREFIX + name, documentation, [label_name], registry=self.registry)
        return {str(value): family.labels(value) for value in values}

    def gauge(self, name: str, documentation: str, *, known: Callable[[], bool] | None = None) -> Gauge:
        """With `known`, exported only while that is true."""
        return self._registered(Gauge(PREFIX + name, documentation, registry=None), known)

    def gauges(
        self, name: str, documentation: str, *, known: Callable[[], bool] | None = None, **label: Iterable[str]
    ) -> dict[str, Gauge]:
        ((label_name, values),) = label.items()
        family = self._registered(Gauge(PREFIX + name, documentation, [label_name], registry=None), known)
        return {str(value): family.labels(value) for value in values}

    def _registered(self, gauge: Gauge, known: Callable[[], bool] | None) -> Gauge:
        self.registry.register(gauge if known is None else _WhileKnown(gauge, known))
        return gauge

    def histogram(self, name: str, documentation: str, *, edges: Sequence[float]) -> Histogram:
        return self.family(name, documentation, edges=edges).series[()]

    def histograms(
        self, name: str, documentation: str, *, edges: Sequence[float], **label: Iterable[str]
    ) -> dict[str, Histogram]:
        ((label_name, values),) = label.items()
        series = [(str(value),) for value in values]
        family = self.family(name, documentation, edges=edges, labels=(label_name,), series=series)
        return {value: histogram for (value,), histogram in family.series.items()}

    def family(
        self,
        name: str,
        documentation: str,
        *,
        edges: Sequence[float],
        labels: Sequence[str] = (),
        series: Iterable[tuple[str, ...]] = ((),),
    ) -> HistogramFamily:
        family = HistogramFamily(PREFIX + name, documentation, edges=edges, labels=labels, series=series)
        self._histograms.append(family)
        return family

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body and Content-Type of a scrape: OpenMetrics, with exemplars, when `accept` asks for it."""
        _, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        rendered = [family.render(exemplars=openmetrics) for family in self._histograms]
        # The registry comes last: in OpenMetrics it ends with the `# EOF` line.
        rendered.append(self._formats[openmetrics].render(self.registry))
        return "".join(rendered).encode(), content_type

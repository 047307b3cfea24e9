"""Counters and gauges as text, cheap to render again: of a scrape nothing changes but the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.utils import floatToGoString

OPENMETRICS_END: Final = "# EOF\n"
_go: Final[Callable[[float], str]] = floatToGoString
"""A number as Go writes it: that is what the format is defined by."""


class TextFormat:
    """Renders what a registry collects as prometheus_client's own encoders do, which a test holds it to.

    Those escape every letter of every HELP line at every scrape. This one keeps headers and labels, which are as many
    as there are series, from one scrape to the next. It knows counters and gauges, without exemplars and timestamps.
    """

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._headers: dict[str, str] = {}
        self._starts: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}

    def render(self, registry: CollectorRegistry) -> str:
        lines = []
        for metric in registry.collect():
            lines.append(self._headers.get(metric.name) or self._header(metric))
            for sample in metric.samples:
                key = (sample.name, tuple(sample.labels.items()))
                lines.append(f"{self._starts.get(key) or self._start(*key)}{_go(sample.value)}\n")
        if self._openmetrics:
            lines.append(OPENMETRICS_END)
        return "".join(lines)

    def _header(self, metric: Metric) -> str:
        if metric.type not in ("counter", "gauge"):
            raise TypeError(f"{metric.name} is a {metric.type}")
        name = f"{metric.name}_total" if metric.type == "counter" and not self._openmetrics else metric.name
        about = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        if self._openmetrics:
            about = about.replace('"', r"\"")
        header = self._headers[metric.name] = f"# HELP {name} {about}\n# TYPE {name} {metric.type}\n"
        return header

    def _start(self, name: str, labels: tuple[tuple[str, str], ...]) -> str:
        pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels))
        start = self._starts[name, labels] = f"{name}{{{pairs}}} " if pairs else f"{name} "
        return start


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

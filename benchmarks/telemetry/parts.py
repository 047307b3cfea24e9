"""Telemetry part by part, each of which can be off: metrics, lifecycle logs, traces.

Off is honest: neither the counting nor what is worked out for it happens, a log line is filtered at its call, and
no span is made.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final
from unittest import mock

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from structlog._config import BoundLoggerLazyProxy

from runwire.append import event_log
from runwire.publish import Publisher
from runwire.stream.fanout import Deliveries
from runwire.telemetry.logs import configure_logging
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import NO_SPANS, Spans
from runwire.telemetry.tracing import Tracing

AGENTS: Mapping[str, Sequence[str]] = {"golden": ("EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown")}


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts are on."""

    metrics: bool = False
    logs: bool = False
    traces: bool = False


OFF = Parts()
VARIANTS: Mapping[str, Parts] = {  # `off again` is to show by how much two that are the same differ
    "off": OFF,
    "off again": OFF,
    "metrics": Parts(metrics=True),
    "logs": Parts(logs=True),
    "traces": Parts(traces=True),
    "all": Parts(metrics=True, logs=True, traces=True),
}


class Telemetry:
    """The telemetry that the stages of one variant get. Only inside `switched` is it, and no other, in force."""

    def __init__(self, parts: Parts, *, lines: IO[str], collector: str) -> None:
        """`lines` takes the log, `collector` is the URL that takes spans over OTLP/HTTP."""
        self.parts = parts
        self.metrics = Metrics(AGENTS) if parts.metrics else _silent_metrics()
        self._tracing = Tracing(OTLPSpanExporter(endpoint=collector), dropped=_never) if parts.traces else None
        self.spans: Spans = self._tracing or NO_SPANS
        self._lines = lines

    @contextmanager
    def switched(self) -> Iterator[None]:
        _configure_logs(self.parts, self._lines)
        with ExitStack() as off:
            if not self.parts.metrics:
                for owner, name, bare in _WITHOUT_METRICS:
                    off.enter_context(mock.patch.object(owner, name, bare))
            yield

    def flush(self) -> None:
        """Waits until every span has gone to the collector, so that the work that made it pays for it."""
        if self._tracing is not None and not self._tracing.flush(within_s=10):
            raise SystemExit("the trace collector did not take the spans")

    async def aclose(self) -> None:
        if self._tracing is not None:
            await self._tracing.aclose()


def _never(spans: int) -> None:
    raise SystemExit(f"{spans} spans were dropped: what is measured is not all of it")


def _configure_logs(parts: Parts, lines: IO[str]) -> None:
    configure_logging("info" if parts.logs else "critical", stream=lines)
    # Loggers keep the configuration of their first use; these are to have the one of now.
    for found in gc.get_objects():
        if isinstance(found, BoundLoggerLazyProxy):
            found.__dict__.pop("bind", None)


class _Nothing:
    """A counter, gauge or histogram that does nothing."""

    def inc(self, amount: float = 1) -> None: ...
    def dec(self, amount: float = 1) -> None: ...
    def set(self, value: float) -> None: ...
    def set_function(self, function: object) -> None: ...
    def observe(self, value: float, trace_id: str | None = None) -> None: ...
    def observe_many(self, values: Sequence[float], *, times: int = 1) -> None: ...


def _silent_metrics() -> Metrics:
    nothing = _Nothing()
    silent = Metrics(AGENTS)
    for name, series in vars(silent).items():
        if name != "out":
            setattr(silent, name, defaultdict(lambda: nothing) if isinstance(series, Mapping) else nothing)
    return silent


def _only_tell_the_publisher(lane: Any, stored: list[Any]) -> None:
    dirty = [group.head.run_id for group in stored if group.count]
    if dirty:
        lane._on_committed(dirty)


_WITHOUT_METRICS: Final[Sequence[tuple[Any, str, object]]] = (
    (event_log._Lane, "_tell", _only_tell_the_publisher),  # the seam is what is measured
    (Publisher, "_tell", lambda *_: None),
    (Deliveries, "tell", lambda *_: None),
)

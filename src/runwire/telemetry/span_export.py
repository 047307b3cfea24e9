"""Sends spans to the collector. It drops and counts spans that it cannot send in time, and work never waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
from opentelemetry import context as otel_context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from runwire.clock import monotonic
from runwire.telemetry.logs import LogEvent

QUEUE_SPANS: Final = 4096
BATCH_SPANS: Final = 512
LINGER_S: Final = 1.0
SHUTDOWN_S: Final = 0.8

_log = structlog.stdlib.get_logger(__name__)


class BoundedSpanExport(SpanProcessor):
    """Exports ended spans from a thread of its own, in batches, at most `LINGER_S` seconds after they ended.

    The SDK's processor drops silently, and its shutdown waits as long as a dead collector takes. `dropped` is called,
    from any thread, with the number of dropped spans.
    """

    def __init__(
        self, exporter: SpanExporter, *, dropped: Callable[[int], object], queue_spans: int = QUEUE_SPANS
    ) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self._queue_spans = queue_spans
        self._queue: deque[ReadableSpan] = deque()
        self._in_flight = 0
        self._flushing = False
        self._closing = False
        self._failing = False
        self._changed = threading.Condition()
        # A daemon: an export that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="runwire-span-export", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if not span.context.trace_flags.sampled:
            return
        with self._changed:
            if not self._closing and len(self._queue) < self._queue_spans:
                self._queue.append(span)
                if len(self._queue) == BATCH_SPANS:
                    self._changed.notify_all()
                return
        self._dropped(1)

    def force_flush(self, timeout_millis: int = 1000) -> bool:
        """Whether all spans that ended before the call were exported or dropped within the time."""
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: not self._queue and not self._in_flight, timeout=timeout_millis / 1000
            )

    def shutdown(self) -> None:
        """Exports spans for at most about `SHUTDOWN_S` seconds and drops the rest."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        deadline = monotonic() + SHUTDOWN_S
        self._thread.join(SHUTDOWN_S)
        with self._changed:
            given_up = len(self._queue)
            self._queue.clear()
        if given_up:
            self._dropped(given_up)
        # Wakes an exporter that waits between two tries; its thread then sees the empty queue and ends.
        self._exporter.shutdown()
        self._thread.join(max(deadline + 0.1 - monotonic(), 0.0))

    def _work(self) -> None:
        with suppress_instrumentation():
            while (batch := self._next_batch()) is not None:
                if batch:
                    self._export(batch)
                with self._changed:
                    self._in_flight = 0
                    self._changed.notify_all()

    def _next_batch(self) -> list[ReadableSpan] | None:
        """The oldest spans once there are enough of them or they waited long enough; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._flushing or len(self._queue) >= BATCH_SPANS, timeout=LINGER_S
            )
            batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
            self._in_flight = len(batch)
            self._flushing = self._flushing and bool(self._queue)
            return None if self._closing and not batch else batch

    def _export(self, batch: list[ReadableSpan]) -> None:
        try:
            failed = self._exporter.export(batch) is not SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001  # whatever a collector makes an exporter raise, the next batch may go
            failed = True
        if failed:
            self._dropped(len(batch))
        if failed != self._failing:
            self._failing = failed
            event = LogEvent.SPAN_EXPORT_FAILING if failed else LogEvent.SPAN_EXPORT_RECOVERED
            _log.warning(event, spans=len(batch))

"""Traces of a process: sampling, export, and a bounded shutdown.

Nothing is recorded unless the standard OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_ENDPOINT) is set. The spans have
their names in `spans`; the provider is not made the global one, so two apps in one interpreter do not meet.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import uuid_utils
from opentelemetry import context as otel_context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.settings import DEFAULTS
from runwire.telemetry.span import Recorder
from runwire.telemetry.span_export import QUEUE_SPANS, BoundedSpanExport
from runwire.telemetry.spans import CHOSEN_SPAN_ID, ROOT_IS_SAMPLED, Spans

CONVENTIONS: Final = Schemas.V1_44_0.value
"""The semantic conventions that the names of attributes follow. Those for GenAI have a repository of their own."""
EXPORT_TIMEOUT_S: Final = 2.0

_log = get_logger()


class Tracing(Spans):
    """The tracer of one process. Call `aclose` (or `shutdown`) at the end: it takes less than a second.

    `ratio` is the share of runs sampled when their caller does not say. `dropped` is called, from any thread, with
    the number of spans given up. `version` and `roles` tell whose spans these are. Without an `exporter` nothing is
    recorded.
    """

    def __init__(
        self,
        exporter: SpanExporter | None,
        *,
        dropped: Callable[[int], object],
        ratio: float = DEFAULTS.trace_sample_ratio,
        version: str = "dev",
        roles: Sequence[str] = (),
        queue_spans: int = QUEUE_SPANS,
    ) -> None:
        self.provider = TracerProvider(
            sampler=ParentBased(_RootSampler(ratio)),
            resource=_resource(version, roles),
            id_generator=_ChosenIds(),
            shutdown_on_exit=False,
        )
        self._export: BoundedSpanExport | None = None
        if exporter is not None:
            self._export = BoundedSpanExport(exporter, dropped=dropped, queue_spans=queue_spans)
            self.provider.add_span_processor(self._export)
        self.tracer = self.provider.get_tracer("runwire", version, schema_url=CONVENTIONS)
        recorder: Recorder | None = None
        if self._export is not None:
            scope = InstrumentationScope("runwire", version, CONVENTIONS)
            recorder = Recorder(self._export.on_end, self.provider.resource, scope)
        super().__init__(self.tracer if recorder is not None else None, ratio=ratio, recorder=recorder)

    def flush(self, *, within_s: float = 1.0) -> bool:
        """Whether every span that has ended was exported, or given up, within the time."""
        return self._export is None or self._export.force_flush(round(within_s * 1000))

    def shutdown(self) -> None:
        """Exports the remaining spans for at most a second, and counts the rest as dropped."""
        self.provider.shutdown()

    async def aclose(self) -> None:
        """`shutdown` without holding up the event loop."""
        await asyncio.to_thread(self.shutdown)


def exporter_from_environment(environ: Mapping[str, str] = os.environ) -> SpanExporter | None:
    """An OTLP/HTTP exporter as the standard OTEL_* variables say; None when they name no endpoint or switch it off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return None
    if not (environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        return None
    # Imported only when used: it takes a fifth of a second, most of it for an HTTP client of its own.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    try:
        return OTLPSpanExporter(timeout=_export_timeout_s(environ))
    except Exception as error:  # noqa: BLE001  # a plug-in or a value of the environment's; the service goes on without
        _log.warning(LogEvent.SPAN_EXPORT_FAILING, spans=0, exc_info=error)
        return None


def _export_timeout_s(environ: Mapping[str, str]) -> float:
    """The specification's unit is the millisecond; the SDK takes the number for seconds. 0 and no number: ours."""
    chosen = environ.get("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") or environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") or ""
    return int(chosen) / 1000 if chosen.strip().isdecimal() and int(chosen) else EXPORT_TIMEOUT_S


def _resource(version: str, roles: Sequence[str]) -> Resource:
    """Ours where the environment (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) says nothing else."""
    ours: dict[str, AttributeValue] = {
        "service.name": "runwire",
        "service.version": version,
        "service.instance.id": str(uuid_utils.uuid4()),
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        "runwire.roles": tuple(roles),
    }
    whole = Resource.create({**ours, **OTELResourceDetector().detect().attributes})
    return _Hashed(whole.attributes, whole.schema_url)


class _Hashed(Resource):
    """Its hash is worked out once: the exporter asks for it at every span, and it is that of all of it as JSON."""

    def __init__(self, attributes: Attributes, schema_url: str) -> None:
        super().__init__(attributes or {}, schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _ChosenIds(RandomIdGenerator):
    """Random ids, except for spans whose id was chosen before they started."""

    def generate_span_id(self) -> int:
        return CHOSEN_SPAN_ID.get() or super().generate_span_id()


class _RootSampler(Sampler):
    """Samples the roots that a caller decided to sample, and the share `ratio` of those without a decision."""

    def __init__(self, ratio: float) -> None:
        self._undecided = TraceIdRatioBased(ratio)

    def should_sample(  # noqa: PLR0917  # the SDK's signature
        self,
        parent_context: otel_context.Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if otel_context.get_value(ROOT_IS_SAMPLED, parent_context):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._undecided.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"RunwireRoot{{{self._undecided.rate}}}"

"""One span as runwire uses it: entered for the time the work takes, failed with a code, never with a text."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Protocol, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from runwire.errors import DECLARED, RunwireError
from runwire.model.names import class_name, code_of

_UNSET: Final = Status(StatusCode.UNSET)
_FAILED: Final = Status(StatusCode.ERROR)


class Span(Protocol):
    """Entered for the time the work takes. An Exception that leaves it marks it failed; a cancellation does not."""

    @property
    def traceparent(self) -> str | None:
        """This span as the parent of others; None when nothing is recorded."""

    def set(self, key: str, value: AttributeValue) -> None: ...

    def fail(self, code: str) -> None:
        """Marks it failed with a bounded code, for what fails without an exception."""

    def discard(self) -> None:
        """Drops the span; another worker reports this attempt."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class RunRequest(Span, Protocol):
    """The span of the request that starts a run."""

    @property
    def traceparent(self) -> str:
        """The traceparent to store with the run, sampled or not."""


class RecordedSpan:
    """A span of the SDK. Current inside its block, and sent when the block is left."""

    __slots__ = ("_discarded", "_span", "_token", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._discarded = False
        self.traceparent = _traceparent(span.get_span_context())

    def set(self, key: str, value: AttributeValue) -> None:
        self._span.set_attribute(key, value)

    def fail(self, code: str) -> None:
        self._span.set_attribute("error.type", code)
        self._span.set_status(_FAILED)

    def discard(self) -> None:
        self._discarded = True

    def __enter__(self) -> Self:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        otel_context.detach(self._token)
        # A cancelled task did not fail, so only Exceptions count.
        if isinstance(error, Exception):
            self.fail(_error_type(error))
        if not self._discarded:  # one that never ends is never sent
            self._span.end()


class RequestSpan(RecordedSpan):
    """The span of a request. It has the status of the answer that the server gives for an error."""

    __slots__ = ()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, Exception):
            declared = DECLARED.get(error.code) if isinstance(error, RunwireError) else None
            status = HTTPStatus.INTERNAL_SERVER_ERROR if declared is None else declared.kind.status
            self.set("http.response.status_code", int(status))
            if status < HTTPStatus.INTERNAL_SERVER_ERROR:  # the caller's
                kind = error = at = None
        super().__exit__(kind, error, at)


@dataclass(frozen=True, slots=True)
class Recorder:
    """The receiver of ended spans, and the service that they belong to."""

    take: Callable[[ReadableSpan], None]
    resource: Resource
    scope: InstrumentationScope


class _Current(trace.NonRecordingSpan):
    """The current span as libraries see it: the parent of their spans, and a sign that spans are wanted."""

    def is_recording(self) -> bool:
        return True


class BelowSampled:
    """A span below a sampled one, which needs no decision: it costs a third of the SDK's own."""

    __slots__ = (
        "_attributes",
        "_began_ns",
        "_context",
        "_discarded",
        "_kind",
        "_links",
        "_name",
        "_parent",
        "_recorder",
        "_status",
        "_token",
    )

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        *,
        parent: SpanContext,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
        links: tuple[Link, ...],
        span_id: int | None = None,
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._parent = parent
        self._kind = kind
        self._attributes = attributes
        self._links = links
        self._status = _UNSET
        self._discarded = False
        own_id = span_id or random.getrandbits(64) or 1  # ids must be unique, not secret
        self._context = SpanContext(parent.trace_id, own_id, is_remote=False, trace_flags=parent.trace_flags)
        self._began_ns = time.time_ns()

    @property
    def traceparent(self) -> str:
        return _traceparent(self._context)

    def set(self, key: str, value: AttributeValue) -> None:
        self._attributes[key] = value

    def fail(self, code: str) -> None:
        self._attributes["error.type"] = code
        self._status = _FAILED

    def discard(self) -> None:
        self._discarded = True

    def __enter__(self) -> Self:
        self._token = otel_context.attach(trace.set_span_in_context(_Current(self._context)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        otel_context.detach(self._token)
        if isinstance(error, Exception):
            self.fail(_error_type(error))
        if self._discarded:
            return
        recorder = self._recorder
        recorder.take(
            ReadableSpan(
                self._name,
                self._context,
                self._parent,
                recorder.resource,
                self._attributes,
                (),
                self._links,
                self._kind,
                None,
                self._status,
                self._began_ns,
                time.time_ns(),
                recorder.scope,
            )
        )


class NoSpan:
    """Stands for a span of a run that is not sampled."""

    __slots__ = ()

    @property
    def traceparent(self) -> str | None:
        return None

    def set(self, key: str, value: AttributeValue) -> None:
        pass

    def fail(self, code: str) -> None:
        pass

    def discard(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


class UnsampledRequest(NoSpan):
    """The request span of a run that is not sampled. It still has the traceparent to store."""

    __slots__ = ("_traceparent",)

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    @property
    def traceparent(self) -> str:
        return self._traceparent


NO_SPAN: Final = NoSpan()


def _traceparent(at: SpanContext) -> str:
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags & 0x03:02x}"


def _error_type(error: Exception) -> str:
    code = code_of(error.code) if isinstance(error, RunwireError) else "exception"
    return code if code != "exception" else class_name(type(error))

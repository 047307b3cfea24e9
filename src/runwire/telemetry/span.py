"""One span as runwire uses it: entered for the time the work takes, failed with a code, never with a text."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Final, Protocol, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from runwire.errors import RunwireError

_CODE = re.compile(r"[a-z][a-z0-9_]{0,47}")


class Span(Protocol):
    """Entered for the time the work takes. An Exception that leaves it marks it failed; a cancellation does not."""

    @property
    def traceparent(self) -> str | None:
        """This span as the parent of others; None when nothing is recorded."""

    def set(self, key: str, value: AttributeValue) -> None: ...

    def fail(self, code: str) -> None:
        """Marks it failed with a bounded code, for what fails without an exception."""

    def discard(self) -> None:
        """It is not sent: somebody else tells of this work."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class RunRequest(Span, Protocol):
    """The span of the request that starts a run."""

    @property
    def traceparent(self) -> str:
        """What to store with the run; there whether it is sampled or not."""


class RecordedSpan:
    """A span of the SDK. Current inside its block, and sent when the block is left."""

    __slots__ = ("_discarded", "_span", "_token", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._discarded = False
        at = span.get_span_context()
        self.traceparent = f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags & 0x03:02x}"

    def set(self, key: str, value: AttributeValue) -> None:
        self._span.set_attribute(key, value)

    def fail(self, code: str) -> None:
        self._span.set_attribute("error.type", code)
        self._span.set_status(Status(StatusCode.ERROR))

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
    """A request that starts a run nobody samples: it still says what to store."""

    __slots__ = ("_traceparent",)

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    @property
    def traceparent(self) -> str:
        return self._traceparent


NO_SPAN: Final = NoSpan()


def _error_type(error: Exception) -> str:
    if isinstance(error, RunwireError) and _CODE.fullmatch(error.code):
        return error.code
    return type(error).__qualname__

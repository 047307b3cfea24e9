"""Database spans: opentelemetry-instrumentation-asyncpg, kept to where they tell something.

Left as it is, the library costs 35 us a query even when nothing is sampled, makes a trace of its own of every
query outside one, and records the texts of PostgreSQL's errors, which quote what was stored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation

suppressed = suppress_instrumentation
"""`with suppressed():` no database spans, for the hot path; a hand-written span stands in for them."""

_NAMED = re.compile(r"/\* (runwire\.[\w.]+) \*/")
_POOL_RESET = "SELECT pg_advisory_unlock_all()"  # between two users of a connection, and about neither
_Call = Callable[..., Awaitable[Any]]


def instrument_asyncpg(provider: trace.TracerProvider) -> Callable[[], None]:
    """Every asyncpg connection of the interpreter gets a span per query, inside a sampled span only.

    Its attributes follow the stable conventions for databases, unless OTEL_SEMCONV_STABILITY_OPT_IN asks for others.
    Returns what takes it back. A second call before that changes nothing.
    """
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "database")  # the library reads it once
    instrumentor = _SampledOnly()  # type: ignore[no-untyped-call]
    if instrumentor.is_instrumented_by_opentelemetry:
        return lambda: None
    instrumentor.instrument(tracer_provider=_QuietProvider(provider))
    return cast("Callable[[], None]", instrumentor.uninstrument)


def named_statement(query: str) -> str | None:
    """The name a statement of ours begins with: `runwire.orchestrate.claim`."""
    found = _NAMED.match(query)
    return None if found is None else found[1]


class _SampledOnly(AsyncPGInstrumentor):
    """Hands a query to the instrumentation only inside a span that is recorded; all others go straight through."""

    async def _do_execute(self, func: _Call, instance: Any, args: Any, kwargs: Any) -> Any:
        if trace.get_current_span().is_recording() and not args[0].startswith(_POOL_RESET):
            return await super()._do_execute(func, instance, args, kwargs)  # type: ignore[no-untyped-call]
        return await func(*args, **kwargs)

    async def _do_cursor_execute(self, func: _Call, instance: Any, args: Any, kwargs: Any) -> Any:
        del instance  # a span for every row says less than the one around them
        return await func(*args, **kwargs)

    async def _do_prepared_execute(self, func: _Call, instance: Any, args: Any, kwargs: Any) -> Any:
        if trace.get_current_span().is_recording():
            return await super()._do_prepared_execute(func, instance, args, kwargs)  # type: ignore[no-untyped-call]
        return await func(*args, **kwargs)


class _QuietProvider(trace.TracerProvider):
    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return _QuietTracer(self._provider.get_tracer(*args, **kwargs))


class _QuietTracer(trace.Tracer):
    """A tracer whose spans keep an error's status, but neither its text nor its traceback.

    A span is named after the statement when that has a name, as ours do, else after its first word.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._tracer.start_span(*args, **kwargs)

    @contextmanager
    def start_as_current_span(self, name: str, **kwargs: Any) -> Iterator[trace.Span]:  # type: ignore[override]
        quiet = {**kwargs, "record_exception": False, "set_status_on_exception": False}
        attributes = kwargs.get("attributes") or {}
        named = named_statement(str(attributes.get("db.query.text") or attributes.get("db.statement") or ""))
        with self._tracer.start_as_current_span(named or name, **quiet) as span:
            yield span

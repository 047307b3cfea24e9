"""The shape of a trace: the parent of each span, compared with the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from telemetry.tables import TRACING, code, declared_attributes, table
from traces.backend import SentSpan

_VARYING = {
    "invoke_agent ": "invoke_agent {agent}",
    "invoke_node ": "invoke_node {node}",
    "runwire.": "runwire.{package}.{statement}",
}


def named(spans: Iterable[SentSpan], prefix: str) -> list[SentSpan]:
    return [span for span in spans if span.name == prefix or span.name.startswith(prefix + " ")]


def only(spans: Iterable[SentSpan], prefix: str) -> SentSpan:
    found = named(spans, prefix)
    assert len(found) == 1, f"{len(found)} x {prefix}"
    return found[0]


def orphans(spans: Sequence[SentSpan], *, caller: str) -> list[str]:
    """Spans whose parent was never sent; `caller` is the span of who started the run, who sends it elsewhere."""
    known = {span.span_id for span in spans} | {caller}
    return [span.name for span in spans if span.parent_id not in known]


def told_twice(spans: Sequence[SentSpan]) -> list[str]:
    ids = [span.span_id for span in spans]
    return [span.name for span in spans if ids.count(span.span_id) > 1]


def undocumented(spans: Iterable[SentSpan]) -> list[str]:
    """Spans that are not as docs/tracing.md has them, and how."""
    rows = {code(row[0]): row for row in table("Spans", page=TRACING)}
    wrong = []
    for span in spans:
        row = rows[documented_name(span.name)]
        if span.kind != row[1]:
            wrong.append(f"{span.name}: kind {span.kind}")
        if span.links and not row[3]:
            wrong.append(f"{span.name}: links")
        required, allowed = declared_attributes(row[4])
        missing = required - set(span.attributes)
        extra = {name for name in span.attributes if not name.startswith(tuple(allowed))}
        if missing or extra:
            wrong.append(f"{span.name}: lacks {sorted(missing)}, has {sorted(extra)}")
    return wrong


def documented_name(name: str) -> str:
    """As the table has it: with what varies in braces."""
    for prefix, documented in _VARYING.items():
        if name.startswith(prefix):
            return documented
    return "{word}" if name.isupper() else name

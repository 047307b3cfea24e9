"""The page of the error codes, from their declarations. A problem's `type` points to one of its headings."""

from __future__ import annotations

from runwire.errors import DECLARED, Declared


def error_codes() -> str:
    """The page as Markdown: for each code its status, its meaning, and the facts that come with it."""
    sections = [_section(code, declared) for code, declared in sorted(DECLARED.items())]
    return "# Error codes\n\nErrors that the API answers (RFC 9457), by `code`.\n\n" + "\n".join(sections)


def _section(code: str, declared: Declared) -> str:
    kind = declared.kind
    lines = [f"## {code}", f"HTTP {kind.status}. {kind.title}"]
    if kind.retry:
        lines.append("The same request may succeed after the seconds in `Retry-After`.")
    if declared.facts:
        lines.append("\n".join(f"- `{fact.name}`: {fact.meaning}" for fact in declared.facts))
    return "\n\n".join(lines) + "\n"

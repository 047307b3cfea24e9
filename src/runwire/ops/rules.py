"""Rules for Prometheus: what is recorded, what alerts, and the two files that say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from runwire.ops import durations
from runwire.ops.thresholds import Severity, Thresholds

JOBS: Final = 'job=~"runwire.*"'
"""Prometheus must scrape runwire as job `runwire` or `runwire-...`: by that its `up` is told from others'."""


SURVIVES: Final = "4m"
"""A window that holds some samples when scrapes are a minute apart."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A series computed ahead. Names are `level:metric:operation`; windows in them are those at scale 1."""

    name: str
    expr: str
    labels: tuple[tuple[str, str], ...] = ()

    def rule(self) -> dict[str, Any]:
        return {"record": self.name, "expr": self.expr, **({"labels": dict(self.labels)} if self.labels else {})}


@dataclass(frozen=True, slots=True)
class Alert:
    """`name` is also its heading in the runbook. `summary` says what is wrong, `description` how much, where.

    `labels` tell alerts of one name apart.
    """

    name: str
    expr: str
    severity: Severity | None
    summary: str
    description: str
    for_: str = "0s"
    labels: tuple[tuple[str, str], ...] = ()

    def rule(self, thresholds: Thresholds) -> dict[str, Any]:
        wait = thresholds.duration(self.for_)
        return {
            "alert": self.name,
            "expr": self.expr,
            **({"for": wait} if wait != "0s" else {}),
            # `runbook` is for dashboards, which see an alert's labels and not its annotations.
            "labels": {
                "severity": self.severity.value if self.severity is not None else "none",
                "runbook": anchor(self.name),
                **dict(self.labels),
            },
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{thresholds.links.runbook}#{anchor(self.name)}",
            },
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Rules evaluated together, in order. `interval` where Prometheus' own would be needlessly often."""

    name: str
    rules: tuple[Recording | Alert, ...]
    interval: str | None = None

    def document(self, thresholds: Thresholds) -> dict[str, Any]:
        return {
            "name": self.name,
            **({"interval": thresholds.duration(self.interval)} if self.interval is not None else {}),
            "rules": [rule.rule(thresholds) if isinstance(rule, Alert) else rule.rule() for rule in self.rules],
        }


def anchor(alert: str) -> str:
    """The fragment of the alert's heading in the runbook."""
    return alert.lower()


def in_window(expr: Callable[[str], str], window: str, thresholds: Thresholds) -> str:
    """The expression over a window, or over a longer one where scrapes are too rare for it."""
    over = expr(thresholds.duration(window))
    if durations.seconds(window) >= durations.seconds(SURVIVES):
        return over
    return f"{over}\nor\n{expr(thresholds.duration(SURVIVES))}"


def bucket(edge: float) -> str:
    """The matcher of a histogram's bucket. Scrapers write its label as `1.0` or as `1`."""
    if edge == int(edge):
        return f'le=~"{int(edge)}(\\\\.0)?"'
    return f'le="{edge!r}"'


def above(expr: str, thresholds: Thresholds, name: str, severity: Severity) -> str:
    """The expression, above the value of that level."""
    return f"{expr} > {thresholds.value(name, severity):.10g}"


def limit(thresholds: Thresholds, name: str, severity: Severity) -> str:
    """The level in words, for a message."""
    return thresholds.named(name).said(severity).removeprefix("> ")


def rule_file(groups: tuple[Group, ...], thresholds: Thresholds) -> dict[str, Any]:
    """The contents of a Prometheus rule file."""
    return {"groups": [group.document(thresholds) for group in groups]}

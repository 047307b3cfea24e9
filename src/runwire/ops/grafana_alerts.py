"""The alerts as rules that Grafana itself evaluates, for its provisioning from files."""

from __future__ import annotations

import re
from typing import Any, Final

from runwire.ops import durations
from runwire.ops.rules import Alert, Group, anchor
from runwire.ops.thresholds import Thresholds

DATASOURCE: Final = "prometheus"
"""The uid of the data source, as deploy/grafana/provisioning has it."""
_INTERVAL: Final = "10s"
"""The shortest that Grafana evaluates at."""
_LOOKS_BACK_S: Final = 600
_UID_MAX: Final = 40


def grafana_alerts(thresholds: Thresholds, groups: tuple[Group, ...]) -> dict[str, Any]:
    """A file for Grafana's `provisioning/alerting`. The recorded series come from Prometheus."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group.name,
                "folder": "runwire",
                "interval": _interval(group, thresholds),
                "rules": [_rule(rule, thresholds) for rule in group.rules if isinstance(rule, Alert)],
            }
            for group in groups
        ],
    }


def _interval(group: Group, thresholds: Thresholds) -> str:
    """Grafana wants multiples of ten seconds."""
    given = durations.seconds(thresholds.duration(group.interval)) if group.interval is not None else 0
    return f"{max(10, round(given / 10) * 10)}s" if given else _INTERVAL


def _rule(alert: Alert, thresholds: Thresholds) -> dict[str, Any]:
    """An expression has a series where the alert fires, always above 0; without a series nothing fires."""
    rule = alert.rule(thresholds)
    told = " ".join(value for _, value in alert.labels)
    return {
        "uid": _uid(alert),
        "title": f"{alert.name} ({told})" if told else alert.name,
        "condition": "fires",
        "data": [
            {
                "refId": "query",
                "relativeTimeRange": {"from": _LOOKS_BACK_S, "to": 0},
                "datasourceUid": DATASOURCE,
                "model": {"refId": "query", "expr": rule["expr"], "instant": True, "range": False},
            },
            {
                "refId": "fires",
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "fires",
                    "type": "threshold",
                    "expression": "query",
                    "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
                },
            },
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
        "labels": rule["labels"],
        "annotations": {name: _templated(text) for name, text in rule["annotations"].items()},
        "isPaused": False,
    }


def _uid(alert: Alert) -> str:
    """The same each time, of what Grafana allows."""
    words = ["runwire", anchor(alert.name), *(value for _, value in alert.labels)]
    return re.sub(r"[^a-z0-9-]+", "-", "-".join(words).lower()).strip("-")[:_UID_MAX]


def _templated(text: str) -> str:
    """Prometheus' `$value` is a number; Grafana's is a text, and the number has the name of the query."""
    return re.sub(r"\$value\b", "$values.query.Value", text)

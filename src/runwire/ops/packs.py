"""Files for other systems that deploy or watch runwire, made from the rules and dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from runwire.ops import datadog
from runwire.ops.grafana_alerts import grafana_alerts
from runwire.ops.rules import Alert, Group
from runwire.ops.thresholds import Thresholds
from runwire.ops.yaml_text import dump

CHART: Final = Path("deploy") / "helm" / "runwire"
"""The Helm chart. Helm reads files only from within it, so it holds copies of the rules and dashboards."""
DATADOG: Final = Path("deploy") / "datadog"
GRAFANA: Final = Path("deploy") / "grafana" / "alerting"
"""Beside the folder that docker-compose.yml mounts: there Prometheus evaluates the rules."""


def packs(thresholds: Thresholds, groups: tuple[Group, ...], watching: Mapping[Path, str]) -> dict[Path, str]:
    """The text of each file by its path in the tree. `watching`: the rules and dashboards, likewise."""
    rules = Path("alerts") / "alert-rules.yaml", Path("alerts") / "recording-rules.yaml"
    alerts = tuple(rule for group in groups for rule in group.rules if isinstance(rule, Alert))
    return {
        **{CHART / "rules" / path.name: watching[path] for path in rules},
        **{CHART / path: text for path, text in watching.items() if path.parent == Path("dashboards")},
        GRAFANA / "rules.yaml": dump(grafana_alerts(thresholds, groups)),
        DATADOG / "monitors.json": datadog.text(datadog.monitors(thresholds, alerts)),
        DATADOG / "dashboard.json": datadog.text(datadog.dashboard(thresholds, alerts)),
    }

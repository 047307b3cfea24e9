"""The rules under test: as rendered, at a time scale at which a drill takes a minute."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from runwire.ops.alertmanager import alertmanager
from runwire.ops.render import alert_groups, recording_groups
from runwire.ops.rules import rule_file
from runwire.ops.thresholds import Thresholds, load

ROOT: Final = Path(__file__).parents[2]
SCALE: Final = 20.0
"""A minute of the rules in 3 s: the stall limit is 30 s, which a histogram has an edge at, too."""
BURN_SCALE: Final = 600.0
"""For burn rates alone, whose windows are days: 6 hours in 36 s."""
RUN_LIMIT_S: Final = 5.0
"""The least limit for a run's duration. Scaled like the windows it would be a second, which a healthy run takes on a
busy machine. The histogram has an edge here.
"""


def rules(*, scale: float, burn_rates: bool | None = None, without: Iterable[str] = ()) -> dict[str, Any]:
    """The groups as Prometheus reads them. `burn_rates`: only those alerts, or all but those, or (None) all.

    The rules of `without` are there under another name, to which nothing is routed as it should be.
    """
    thresholds = _with_time_to_run(load(ROOT, scale=scale))
    groups = [*recording_groups(thresholds), *alert_groups(thresholds)]
    document = rule_file(tuple(groups), thresholds)
    disabled = frozenset(without)
    for group in document["groups"]:
        group["rules"] = [
            rule for rule in group["rules"] if "alert" not in rule or burn_rates in (None, is_burn_rate(rule["alert"]))
        ]
        for rule in group["rules"]:
            if rule.get("alert") in disabled:
                rule["alert"] = left_out(rule["alert"])
                rule["labels"] = {**rule["labels"], "severity": "none"}
    return document


def _with_time_to_run(thresholds: Thresholds) -> Thresholds:
    objective = thresholds.slos.objectives["run"]
    within_s = max(objective.within_s or 0.0, RUN_LIMIT_S * thresholds.scale)
    objectives = {**thresholds.slos.objectives, "run": replace(objective, within_s=within_s)}
    return replace(thresholds, slos=replace(thresholds.slos, objectives=objectives))


def left_out(alert: str) -> str:
    """The name of a rule that is left out: it still fires when its condition holds, and no test knows it."""
    return f"{alert}LeftOut"


def routing(*, scale: float, webhook: str) -> dict[str, Any]:
    """Alertmanager's configuration; what belongs together is told together, but nobody waits for a second message."""
    configuration = alertmanager(load(ROOT, scale=scale), webhook=webhook)
    for route in (configuration["route"], *configuration["route"]["routes"]):
        route["group_interval"] = "1s"
    return configuration


def alert_names() -> list[str]:
    """Every alert there is, in the order of the rules."""
    found = [rule["alert"] for group in rules(scale=1)["groups"] for rule in group["rules"] if "alert" in rule]
    return list(dict.fromkeys(found))


def is_burn_rate(alert: str) -> bool:
    return alert.endswith("Burn")

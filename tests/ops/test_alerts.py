"""Every alert fires when it should and is silent when it should: `promtool test rules` on the rules as rendered."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.pages import RUNBOOK, headings
from ops.alert_cases import CASES, JOB, Case, gauge
from runwire.content.part_metrics import PART_LAG_BUCKETS_S
from runwire.ops.alertmanager import AT_ONCE
from runwire.ops.render import alert_groups, recording_groups
from runwire.ops.rules import Alert, anchor, rule_file
from runwire.ops.thresholds import Severity, load
from runwire.telemetry.metrics import LAG_BUCKETS_S, RUN_BUCKETS_S

ROOT = Path(__file__).parents[2]
THRESHOLDS = load(ROOT)
RULES = [rule for group in alert_groups(THRESHOLDS) for rule in group.rules if isinstance(rule, Alert)]
ALERTS = {rule.name: rule for rule in RULES}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="needs amtool")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS) - {"Watchdog"}


def test_every_level_of_every_threshold_has_an_alert_of_its_severity() -> None:
    wanted = [
        severity
        for threshold in (THRESHOLDS.thresholds | THRESHOLDS.watching).values()
        for severity in [
            *threshold.levels,
            *([Severity.PAGE] if threshold.page_at_once is not None else []),
            *(Severity.PAGE for _ in threshold.again_above),
        ]
    ]
    burning = [burn.severity for burn in THRESHOLDS.slos.burn_rates.values() for _ in THRESHOLDS.slos.objectives]
    made = [alert.severity for alert in RULES if alert.severity is not None]
    made.remove(Severity.PAGE)  # gaps have an alert beside the other invariants, from the same number
    assert sorted(made) == sorted(wanted + burning)


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_and_is_silent_as_its_cases_say(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    promtool_agrees(tmp_path, [asked(case) for case in cases], annotations=False, of={alert})


@needs_promtool
@pytest.mark.parametrize(
    ("case", "description"),
    [
        (
            Case("PublisherDown", "", gauge("runwire_publisher_heartbeat_age_seconds", 90), True, JOB),
            "No publisher of runwire has been heard of for 1m 30s (limit 15 s).",
        ),
        (
            Case("OutboxBacklog", "", gauge("runwire_outbox_backlog_events", 2500), True, JOB),
            "The publishers of runwire have 25s of work before them, averaged over 5m (limit 1 s).",
        ),
        (
            Case("ObserverStale", "", gauge("runwire_observer_last_success_timestamp_seconds", 0), True, JOB),
            "The observer of runwire last looked at everything 10m 0s ago (limit 30 s for 1 min).",
        ),
        (Case("ObserverStale", "", {}, True), "No process with the role observer is scraped."),
    ],
)
def test_the_message_tells_the_value_and_the_limit(case: Case, description: str, tmp_path: Path) -> None:
    alert = ALERTS[case.alert]
    told = {
        "summary": alert.summary,
        "description": description,
        "runbook_url": f"{THRESHOLDS.links.runbook}#{anchor(alert.name)}",
    }
    promtool_agrees(tmp_path, [asked(case, annotations=told)], annotations=True, of={case.alert})


@pytest.mark.parametrize("alert", ALERTS.values(), ids=lambda alert: alert.name)
def test_a_message_holds_its_value_and_the_runbook_has_its_heading(alert: Alert) -> None:
    assert "$value" in alert.description
    assert alert.name in [text for level, text, _ in headings(RUNBOOK) if level == 3]
    section = RUNBOOK.read_text().split(f"\n### {alert.name}\n")[1].split("\n#")[0]
    for word in ("Means.", "Look.", "Do.", "Clears"):
        assert f"- **{word}**" in section


def test_objectives_lie_on_edges_of_the_histograms_they_are_read_from() -> None:
    limits = {name: objective.within_s for name, objective in THRESHOLDS.slos.objectives.items()}
    assert {limits["publish"], limits["deliver"]} <= set(LAG_BUCKETS_S)
    assert limits["run"] in RUN_BUCKETS_S
    assert {level.value for level in THRESHOLDS.named("publish_lag").levels.values()} <= set(LAG_BUCKETS_S)
    assert {level.value for level in THRESHOLDS.named("part_lag").levels.values()} <= set(PART_LAG_BUCKETS_S)


@needs_amtool
@pytest.mark.parametrize(
    ("receiver", "labels"),
    [
        ("page", ["alertname=PublisherDown", "severity=page"]),
        ("page", ["alertname=SequenceGap", "severity=page"]),
        ("page", ["alertname=OldestEventUnpublished", "severity=page", "level=at_once"]),
        ("ticket", ["alertname=TargetDown", "severity=critical"]),
        ("ticket", ["alertname=SseChurn", "severity=warning"]),
        ("watchdog", ["alertname=Watchdog", "severity=none"]),
    ],
)
def test_alertmanager_sends_an_alert_to(receiver: str, labels: list[str]) -> None:
    config = str(ROOT / "alerts" / "alertmanager.yaml")
    options = [f"--config.file={config}", f"--verify.receivers={receiver}"]
    ran = subprocess.run(
        ["amtool", "config", "routes", "test", *options, *labels], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def routing() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "alerts" / "alertmanager.yaml").read_text())
    return read


def test_alerts_of_one_name_are_told_apart_by_their_labels() -> None:
    assert len({(rule.name, rule.labels) for rule in RULES}) == len(RULES)


def test_nobody_waits_to_hear_of_a_broken_invariant() -> None:
    (route,) = [route for route in routing()["route"]["routes"] if "SequenceGap" in route["matchers"][0]]
    assert route["group_wait"] == "0s"
    assert THRESHOLDS.level("invariant", Severity.PAGE).at_once
    assert all(name in route["matchers"][0] for name in AT_ONCE)


def test_what_mutes_and_what_is_muted_are_alerts_that_exist() -> None:
    muted: dict[str, set[str]] = {}
    for rule in routing()["inhibit_rules"]:
        assert rule["equal"] == ["job"]
        muted[named(rule["source_matchers"]).pop()] = named(rule["target_matchers"])
    lags = {"PublishLagWarning", "PublishLagCritical", "PublishLagPage"}
    assert muted == {
        "PublisherDown": lags | {"OutboxBacklog", "PartLagCritical", "PartLagPage", "CanaryFailing"},
        "ApiDown": {"CanaryFailing"},
        "PublishLagPage": lags - {"PublishLagPage"},
        "PublishLagCritical": {"PublishLagWarning"},
        "PartLagPage": {"PartLagCritical"},
    }
    assert set().union(*muted.values(), muted) <= set(ALERTS)


def named(matchers: list[str]) -> set[str]:
    (matcher,) = matchers
    return set(matcher.split('"')[1].split("|"))


def asked(case: Case, *, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """The case as a test of promtool's."""
    severity = ALERTS[case.alert].severity
    labels = {"severity": severity.value if severity else "none", "runbook": anchor(case.alert)}
    fired = [
        {"exp_labels": labels | one, **({"exp_annotations": annotations} if annotations else {})}
        for one in (dict(case.labels), *map(dict, case.more))
    ]
    return {
        "name": case.name,
        "interval": case.every,
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": fired if case.fires else []}],
    }


def needed_by(alerts: set[str], rules: dict[str, Any]) -> dict[str, Any]:
    """The rule file without the others, which take a minute to evaluate over hours."""
    wanted = {rule["expr"] for group in rules["groups"] for rule in group["rules"] if rule.get("alert") in alerts}
    recorded = [rule for group in rules["groups"] for rule in group["rules"] if "record" in rule]
    while more := {rule["expr"] for rule in recorded if any(named_in(rule, expr) for expr in wanted)} - wanted:
        wanted |= more
    groups = [
        {**group, "rules": [rule for rule in group["rules"] if rule["expr"] in wanted]} for group in rules["groups"]
    ]
    return {"groups": [group for group in groups if group["rules"]]}


def named_in(rule: dict[str, Any], expr: str) -> bool:
    """Whether the expression reads what the rule records."""
    return re.search(rf"{re.escape(rule['record'])}(?![\w:])", expr) is not None


def promtool_agrees(folder: Path, tests: list[dict[str, Any]], *, annotations: bool, of: set[str]) -> None:
    """Runs the tests with the rules of these alerts, and all that is recorded for them."""
    rules = needed_by(of, rule_file((*recording_groups(THRESHOLDS), *alert_groups(THRESHOLDS)), THRESHOLDS))
    if not annotations:  # promtool compares them word by word
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(document))
    ran = subprocess.run(
        ["promtool", "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr

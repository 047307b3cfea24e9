"""The files rendered from alerts/thresholds.yaml are complete, in place, and accepted by their programs."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cli.command import ran
from docs.pages import RUNBOOK, headings
from runwire.errors import ConfigurationError
from runwire.ops.judgements import MODULE, judgements
from runwire.ops.render import render
from runwire.ops.thresholds import Thresholds, load
from telemetry.tables import code, table

ROOT = Path(__file__).parents[2]
SUFFIXES = re.compile(r"_(bucket|count|sum)$")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="needs amtool")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "alerts" / "alert-rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> set[str]:
    groups = yaml.safe_load((ROOT / "alerts" / "recording-rules.yaml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def dashboards() -> list[tuple[str, dict[str, Any]]]:
    return [(path.stem, json.loads(path.read_text())) for path in sorted((ROOT / "dashboards").glob("*.json"))]


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    nested = [panel for row in dashboard["panels"] for panel in row.get("panels", ())]
    return [panel for panel in dashboard["panels"] + nested if panel["type"] != "row"]


def test_nothing_has_drifted() -> None:
    assert render(ROOT, check=True) == []


def copied_module(to: Path) -> Path:
    (to / MODULE).parent.mkdir(parents=True)
    return Path(shutil.copy(ROOT / MODULE, to / MODULE))


def test_what_the_service_judges_by_is_in_the_file_of_thresholds_and_nowhere_else() -> None:
    """In what observes and diagnoses no number is compared with, given a name or taken as a default."""
    for path in sorted((ROOT / "src" / "runwire" / "observe").glob("*.py")):
        assert [f"{path.name}:{node.lineno}: {node.value!r}" for node in judged_by(path)] == []
    document = yaml.safe_load((ROOT / "alerts" / "thresholds.yaml").read_text())
    document["diagnosis"]["lock_wait"]["value"] = 7.5
    document["thresholds"]["publisher_heartbeat"]["levels"]["page"]["value"] = 17
    text = judgements(msgspec.convert({**document, "scale": 1.0}, Thresholds))
    assert "LOCK_WAIT_S: Final = 7.5\n" in text
    assert "PUBLISHER_DEAD_S: Final = 17.0\n" in text


PERIODS = {"period_s", "budget_events"}
"""Defaults of settings: how often and how much is looked at, which judges nothing."""


def judged_by(path: Path) -> Iterator[ast.Constant]:
    for node in ast.walk(ast.parse(path.read_text())):
        found: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            found = [node.left, *node.comparators]
        elif isinstance(node, ast.arguments):
            pairs = zip((*node.args[len(node.args) - len(node.defaults) :], *node.kwonlyargs),
                        (*node.defaults, *node.kw_defaults), strict=True)  # fmt: skip
            found = [default for argument, default in pairs if argument.arg not in PERIODS]
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            name = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            found = [node.value] if isinstance(name, ast.Name) and name.id.endswith("_S") else []
        for one in found:
            if isinstance(one, ast.Constant) and isinstance(one.value, int | float) and one.value not in (0, True):
                yield one


def test_the_command_tells_of_drift_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "alerts", tmp_path / "alerts")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "dashboards", tmp_path / "dashboards")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    module = copied_module(tmp_path)
    rules = tmp_path / "alerts" / "alert-rules.yaml"
    rules.write_text(rules.read_text().replace("> 5", "> 6"))
    changed = rules.read_text()
    module.write_text(module.read_text().replace("5", "6"))
    result = ran(capsys, "ops", "render", "--check", "--root", str(tmp_path))
    assert (result.code, result.err) == (1, f"alerts/alert-rules.yaml: differs\n{MODULE}: differs\n")
    assert rules.read_text() == changed
    assert ran(capsys, "ops", "render", "--root", str(tmp_path)).code == 0
    assert rules.read_text() == (ROOT / "alerts" / "alert-rules.yaml").read_text()


def test_a_number_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "alerts").mkdir()
    good = (ROOT / "alerts" / "thresholds.yaml").read_text()
    (tmp_path / "alerts" / "thresholds.yaml").write_text(good.replace("value:", "valu:", 1))
    with pytest.raises(ConfigurationError):
        load(tmp_path)


@needs_promtool
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_prometheus_takes_the_rules(scale: float, tmp_path: Path) -> None:
    render(ROOT, scale=scale, out=tmp_path)
    for name in ("alert-rules.yaml", "recording-rules.yaml"):
        checked = subprocess.run(
            ["promtool", "check", "rules", str(tmp_path / "alerts" / name)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_amtool
@pytest.mark.parametrize("severity", ["page", "critical", "warning"])
def test_alertmanager_takes_its_configuration_and_routes_by_severity(severity: str) -> None:
    config = str(ROOT / "alerts" / "alertmanager.yaml")
    checked = subprocess.run(["amtool", "check-config", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    routed = subprocess.run(
        ["amtool", "config", "routes", "test", "--config.file", config, f"severity={severity}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert routed.stdout.strip() == ("page" if severity == "page" else "ticket")


def test_every_alert_says_what_it_means_and_where_to_read_on() -> None:
    anchors = {anchor for _, _, anchor in headings(RUNBOOK)}
    for alert in alerts():
        annotations = alert["annotations"]
        assert {"summary", "description", "runbook_url"} <= set(annotations), alert["alert"]
        assert alert["labels"]["severity"] in {"page", "critical", "warning", "none"}, alert["alert"]
        page, _, anchor = annotations["runbook_url"].partition("#")
        assert "run-diagnostics" in page
        assert anchor in anchors, alert["alert"]


def test_every_metric_that_is_asked_for_is_exported() -> None:
    exported = {code(row[0]) for row in table("Metrics")}
    asked = " ".join(alert["expr"] for alert in alerts())
    for _, dashboard in dashboards():
        for panel in panels(dashboard):
            asked += " ".join(target.get("expr", "") for target in panel.get("targets", ()))
    asked = re.sub(r"\b[a-z]+:[a-z0-9_:]+", "", asked)  # recorded series: the test below
    names = {SUFFIXES.sub("", name) for name in re.findall(r"\brunwire_[a-z0-9_]+\b", asked)}
    assert names - exported == set()


def test_every_metric_is_on_a_panel_or_in_an_alert() -> None:
    """A metric that nobody sees is not watched."""
    asked = " ".join(alert["expr"] for alert in alerts())
    groups = yaml.safe_load((ROOT / "alerts" / "recording-rules.yaml").read_text())["groups"]
    asked += " ".join(rule["expr"] for group in groups for rule in group["rules"])
    for _, dashboard in dashboards():
        for panel in panels(dashboard):
            asked += " ".join(target.get("expr", "") for target in panel.get("targets", ()))
    names = {SUFFIXES.sub("", name) for name in re.findall(r"\brunwire_[a-z0-9_]+\b", asked)}
    assert {code(row[0]) for row in table("Metrics")} - names == set()


def test_recorded_series_that_alerts_use_are_recorded() -> None:
    used = set(re.findall(r"\b[a-z_]+:[a-z0-9_:]+\b", " ".join(alert["expr"] for alert in alerts())))
    assert used <= recorded()


@pytest.mark.parametrize(("name", "dashboard"), dashboards())
def test_a_dashboard_is_well_made(name: str, dashboard: dict[str, Any]) -> None:
    assert dashboard["uid"], name
    assert {"datasource", "job", "instance"} <= {variable["name"] for variable in dashboard["templating"]["list"]}
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        title = panel.get("title", "?")
        assert panel.get("description"), (name, title)
        if panel["type"] in ("timeseries", "stat", "gauge", "bargauge"):
            assert panel["fieldConfig"]["defaults"].get("unit"), (name, title)
            for target in panel["targets"]:
                assert "${datasource}" in json.dumps(target.get("datasource") or panel["datasource"]), (name, title)
    cells: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in cells, (name, panel.get("title"), cells[x, y])
                cells[x, y] = panel.get("title", "")
        assert at["x"] + at["w"] <= 24

"""Rules for one of several deployments in a Prometheus: they keep its labels, see its series only, and do not mix."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.command import ran
from ops.alert_cases import CASES, Case
from runwire.errors import ConfigurationError
from runwire.ops.promql import Matcher, rewritten
from runwire.ops.render import alert_groups
from runwire.ops.rules import Alert, anchor
from runwire.ops.scope import scope_of
from runwire.ops.thresholds import load

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
Capsys = pytest.CaptureFixture[str]
OPTIONS = ("--by", "cluster,namespace", "--selector", 'job="x"', "--severity-map", "page=critical,ticket=warning")
RUNBOOK_URL = "https://wiki.example.com/runs"
SEVERITIES = {"page": "critical", "critical": "warning", "warning": "warning"}
ALERTS = {
    rule.name: rule for group in alert_groups(load()) for rule in group.rules if isinstance(rule, Alert)
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rendered as from an installed package: there is no source tree where the command runs."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "rules"
    result = ran(capsys, "ops", "render", "--out", str(out), *OPTIONS, "--runbook-url", RUNBOOK_URL + "/")
    assert (result.code, result.out) == (0, ""), result.err
    return out


def rules_of(folder: Path) -> list[dict[str, Any]]:
    groups = [
        group
        for name in ("recording-rules.yaml", "alert-rules.yaml")
        for group in yaml.safe_load((folder / "alerts" / name).read_text())["groups"]
    ]
    return [rule for group in groups for rule in group["rules"]]


def queries(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        yield from (one["expr"] for one in board["annotations"]["list"])
        for panel in board["panels"]:
            yield from (target["expr"] for target in panel.get("targets", ()))


def test_every_aggregation_keeps_the_labels_and_every_series_is_selected(files: Path) -> None:
    rules = rules_of(files)
    assert len(rules) > 60
    for rule in rules:
        expr = rule["expr"]
        for kept in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr):
            assert {"cluster", "namespace"} <= set(kept.split(", ")), expr
        assert len(re.findall(r"\b(?:sum|max|min|count|group)\b(?! by \()", expr)) == 0, expr
        series = re.findall(r"\b(?:runwire_\w+|up|process_\w+|job:[\w:]+)(\{[^}]*\})?", expr)
        assert all('job="x"' in braces for braces in series), expr
        assert 'job=~"runwire' not in expr


def test_severities_links_and_routes_follow_the_options(files: Path) -> None:
    for rule in rules_of(files):
        if "alert" in rule and rule["alert"] != "Watchdog":
            severity = ALERTS[rule["alert"]].severity
            assert severity is not None
            assert rule["labels"]["severity"] == SEVERITIES[severity]
            assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{anchor(rule['alert'])}"
            assert "{{ $labels.job }}" not in rule["annotations"]["description"].replace(
                "{{ $labels.cluster }}/{{ $labels.namespace }}/{{ $labels.job }}", ""
            )
    routing = yaml.safe_load((files / "alerts" / "alertmanager.yaml").read_text())
    assert routing["route"]["group_by"] == ["alertname", "job", "cluster", "namespace"]
    assert all(rule["equal"] == ["job", "cluster", "namespace"] for rule in routing["inhibit_rules"])
    assert ['severity="critical"'] in [route["matchers"] for route in routing["route"]["routes"]]


@needs_promtool
def test_prometheus_takes_the_rules_and_the_queries_of_the_dashboards(files: Path, tmp_path: Path) -> None:
    asked = []
    for number, query in enumerate(queries(files)):
        expr = query
        for variable, value in {"$__rate_interval": "1m", "$__range": "1h"}.items():
            expr = expr.replace(variable, value)
        asked.append({"record": f"query_{number}", "expr": expr})
        assert 'cluster=~"$cluster' in expr
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": asked}]}))
    paths = [*(files / "alerts").glob("*-rules.yaml"), tmp_path / "queries.yaml"]
    assert len(paths) == 3
    checked = subprocess.run(
        ["promtool", "check", "rules", *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_dashboards_have_a_list_for_each_label(files: Path) -> None:
    board = json.loads((files / "dashboards" / "overview.json").read_text())
    variables = {one["name"]: one.get("query") for one in board["templating"]["list"]}
    assert list(variables)[:4] == ["datasource", "cluster", "namespace", "job"]
    assert variables["cluster"]["query"] == 'label_values(runwire_build_info{job="x"}, cluster)'
    assert '"critical"' in json.dumps(board["panels"])


def placed(series: Mapping[str, str], cluster: str) -> dict[str, str]:
    """A deployment's series, in that cluster."""
    here = f'job="x", cluster="{cluster}", namespace="n"'
    return {name.replace('job="runwire"', here): values for name, values in series.items()}


def pairs() -> Iterator[tuple[Case, Case]]:
    """For each alert a case in which it fires and one in which it does not, both asked at the same time."""
    for alert in ALERTS:
        mine = [case for case in CASES if case.alert == alert and case.series]
        found = (
            (bad, good)
            for bad in mine
            for good in mine
            if bad.fires and not good.fires and (bad.at, bad.every) == (good.at, good.every)
            and "job" in bad.labels and all('job="runwire"' in name for name in (*bad.series, *good.series))
        )  # fmt: skip
        yield from [pair for pair in [next(found, None)] if pair is not None]


def mixed(bad: Case, good: Case) -> dict[str, Any]:
    """One Prometheus with both: the bad one in cluster a, the good one in cluster b. As a test of promtool's."""
    severity = ALERTS[bad.alert].severity
    assert severity is not None
    labels = {**bad.labels, "job": "x", "cluster": "a", "namespace": "n"}
    labels |= {"severity": SEVERITIES[severity], "runbook": anchor(bad.alert)}
    series = placed(bad.series, "a") | placed(good.series, "b")
    return {
        "name": bad.name,
        "interval": bad.every,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": bad.at, "alertname": bad.alert, "exp_alerts": [{"exp_labels": labels}]}],
    }


def promtool_agrees(folder: Path, rules: list[dict[str, Any]], tests: list[dict[str, Any]]) -> None:
    for group in rules:
        for rule in group["rules"]:
            rule.pop("annotations", None)  # promtool compares them word by word
    (folder / "mixed-rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
    document = {"rule_files": ["mixed-rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(document))
    tested = subprocess.run(
        ["promtool", "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
def test_of_two_clusters_in_one_prometheus_only_the_broken_one_is_told_of(files: Path, tmp_path: Path) -> None:
    groups = [
        group
        for name in ("recording-rules.yaml", "alert-rules.yaml")
        for group in yaml.safe_load((files / "alerts" / name).read_text())["groups"]
    ]
    tests = [mixed(bad, good) for bad, good in pairs()]
    assert len(tests) > 25
    promtool_agrees(tmp_path, groups, tests)


@needs_promtool
def test_a_cluster_without_an_observer_is_told_of_beside_one_that_has_one(files: Path, tmp_path: Path) -> None:
    series = placed({'up{job="runwire", instance="a"}': "1x60"}, "a") | placed(
        {
            'up{job="runwire", instance="a"}': "1x60",
            'runwire_observer_last_success_timestamp_seconds{job="runwire", instance="a"}': "0+15x60",
        },
        "b",
    )
    labels = {"severity": "critical", "runbook": "observerstale", "cluster": "a", "namespace": "n"}
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "10m", "alertname": "ObserverStale", "exp_alerts": [{"exp_labels": labels}]}],
    }
    groups = yaml.safe_load((files / "alerts" / "alert-rules.yaml").read_text())["groups"]
    promtool_agrees(tmp_path, groups, [test])


@needs_promtool
def test_a_prometheusrule_has_the_same_rules(files: Path, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "operator"
    options = (*OPTIONS, "--runbook-url", RUNBOOK_URL, "--format", "prometheusrule", "--label", "release=prometheus")
    assert ran(capsys, "ops", "render", "--out", str(out), *options).code == 0
    assert not (out / "alerts" / "alert-rules.yaml").exists()
    made = yaml.safe_load((out / "alerts" / "prometheusrule.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert made["metadata"]["labels"]["release"] == "prometheus"
    groups = made["spec"]["groups"]
    assert [rule for group in groups for rule in group["rules"]] == rules_of(files)
    assert all(set(group) <= {"name", "interval", "rules"} for group in groups)
    bad, good = next(pairs())
    promtool_agrees(tmp_path, groups, [mixed(bad, good)])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--by", "cluster"), "--by: name a folder with --out"),
        (("--out", "o", "--by", "le"), "--by: 'le' cannot be a label"),
        (("--out", "o", "--selector", "job=x"), "--selector: 'job=x' is no matcher"),
        (("--out", "o", "--selector", 'env="prod"'), "--selector: name env in --by, too"),
        (("--out", "o", "--severity-map", "page=critical"), "map ticket, too"),
        (("--out", "o", "--severity-map", "pages=P1"), "'pages=P1' is not one of"),
        (("--out", "o", "--runbook-url", "wiki"), "--runbook-url: 'wiki' is no URL"),
        (("--out", "o", "--label", "a b=c"), "--label: a b=c is no label"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_sentence(
    args: tuple[str, ...], said: str, capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ran(capsys, "ops", "render", *args)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert said in line
    assert not (tmp_path / "o").exists()


def test_a_selector_is_put_beside_what_is_there_and_into_every_kind_of_expression() -> None:
    def selected(_name: str, given: tuple[Matcher, ...]) -> list[Matcher]:
        return [*given, Matcher("a", "=", '"}"')]

    def kept(given: tuple[str, ...]) -> list[str]:
        return [*given, "z"]

    asked = 'sum by (x) (rate(m{b=~"{8}"}[5m])) / on () group_left (y) (n offset 5m > bool 1e9) unless 2 * vector(1)'
    assert rewritten(asked, selector=selected, labels=kept) == (
        'sum by (x, z) (rate(m{b=~"{8}", a="}"}[5m])) / on (z) group_left (y) (n{a="}"} offset 5m > bool 1e9)'
        " unless 2 * vector(1)"
    )


def test_all_problems_of_the_options_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        scope_of(by="job", selector="!", severity_map="x")
    assert len(refused.value.problems) == 3

"""The Helm chart renders what Kubernetes and the operators take, with the rules that are tested."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from npm import installed, program
from ops.alert_cases import CASES
from ops.test_alerts import asked, needed_by
from pypi import python_with
from runwire.duties import Role
from runwire.ops.packs import CHART
from runwire.settings import Settings
from telemetry.tables import code, table

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent / "chart"
EVERYTHING_OFF: Final[dict[str, Any]] = {
    "roles": {role.value: {"enabled": False} for role in Role},
    "serviceAccount": {"create": False},
    **{name: {"enabled": False} for name in ("networkPolicy", "podDisruptionBudget", "keda", "dashboards")},
}
EVERYTHING_ON: Final[dict[str, Any]] = {
    "podLabels": {"team": "shop"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "runwire", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
    "image": {"pullSecrets": ["registry"]},
    "roles": {
        "api": {"podAnnotations": {"a": "b"}, "autoscaling": {"enabled": True}},
        "worker": {"settings": {"RUNWIRE_LEASE_S": 20.5, "RUNWIRE_TELEMETRY": False}},
    },
    "networkPolicy": {"egress": [{"ports": [{"protocol": "TCP", "port": 5432}]}]},
    **{name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboards", "keda")},
}
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "unknown key": ({"replicas": 3}, "replicas"),
    "unknown role": ({"roles": {"webhook": {"enabled": True, "replicas": 1}}}, "webhook"),
    "job that no alert looks at": ({"serviceMonitor": {"job": "shop"}}, "job"),
    "no secret": ({"existingSecret": ""}, "existingSecret"),
    "setting of another": ({"settings": {"DATABASE_URL": "postgresql://u:p@db/x"}}, "DATABASE_URL"),
    "two scalers": ({"keda": {"enabled": True}, "roles": {"worker": {"autoscaling": {"enabled": True}}}}, "choose one"),
}
SETS: Final = ("defaults", "small", "production", "on", "off")
SCRAPED: Final = "job"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")

Objects = list[dict[str, Any]]


def example(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / CHART / "examples" / f"{name}.yaml").read_text())
    return values


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """By set of values what rendered.py says of it."""
    sets = {"defaults": {}, "small": example("small"), "production": example("production")}
    sets["named"] = {"serviceMonitor": {"enabled": True, "job": "runwire-eu"}, "keda": {"enabled": True}}
    sets |= {"on": EVERYTHING_ON, "off": EVERYTHING_OFF, **{name: values for name, (values, _) in REFUSED.items()}}
    question = {
        "chart": str(ROOT / CHART),
        "sets": {name: {"release": "shop" if name == "on" else "runwire", "values": of} for name, of in sets.items()},
    }
    python = python_with("helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0", into="kubernetes", within_s=110)
    done = subprocess.run(
        [python, HERE / "rendered.py"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def of_kind(answers: dict[str, Any], values: str, kind: str) -> Objects:
    return [one for one in answers[values]["objects"] if one["kind"] == kind]


@pytest.mark.parametrize("values", SETS)
def test_kubernetes_takes_what_the_chart_renders(values: str, answers: dict[str, Any]) -> None:
    assert answers[values]["problems"] == []
    named = [(one["kind"], one["metadata"]["name"]) for one in answers[values]["objects"]]
    assert len(named) == len(set(named))
    assert {one["metadata"]["namespace"] for one in answers[values]["objects"]} == {"agents"}


@pytest.mark.node
def test_operators_take_what_the_chart_renders(answers: dict[str, Any]) -> None:
    folder = installed(HERE / "package.json", into="kubernetes-models", also=(HERE / "operators.mjs",))
    objects = [
        one
        for values in ("production", "on")
        for kind in ("PrometheusRule", "ServiceMonitor", "ScaledObject")
        for one in of_kind(answers, values, kind)
    ]
    assert len(objects) == 8
    wrong = {**objects[-1], "spec": {**objects[-1]["spec"], "triggers": "none"}}
    done = subprocess.run(
        [program("node"), "operators.mjs"],
        input=json.dumps([*objects, wrong]),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"ScaledObject {wrong['metadata']['name']}: data/spec/triggers must be array"]


@pytest.mark.parametrize("refused", REFUSED)
def test_values_that_cannot_be_are_refused_by_name(refused: str, answers: dict[str, Any]) -> None:
    assert REFUSED[refused][1] in answers[refused]["refused"]


def test_every_role_is_a_deployment(answers: dict[str, Any]) -> None:
    deployments = {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one
        for one in of_kind(answers, "defaults", "Deployment")
    }
    assert set(deployments) == {role.value for role in Role}
    for role, deployment in deployments.items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["--role", role]
    assert [one["kind"] for one in answers["off"]["objects"]] == ["Service", "ConfigMap"]


@pytest.mark.parametrize("values", ["defaults", "production", "on"])
def test_no_process_is_root_or_writes_to_its_image(values: str, answers: dict[str, Any]) -> None:
    for deployment in of_kind(answers, values, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
        drain = next(float(one["value"]) for one in container["env"] if one["name"] == "RUNWIRE_DRAIN_S")
        assert pod["terminationGracePeriodSeconds"] == 3 * drain


@pytest.mark.parametrize("values", SETS)
def test_settings_are_settings_and_no_secret_is_in_clear(values: str, answers: dict[str, Any]) -> None:
    known = {f"RUNWIRE_{name.upper()}" for name in Settings.model_fields}
    named = set(of_kind(answers, values, "ConfigMap")[-1]["data"] or {})
    for deployment in of_kind(answers, values, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        named |= {one["name"] for one in container["env"]}
    assert named <= known
    assert not named & {"RUNWIRE_DATABASE_URL", "RUNWIRE_KEYS", "RUNWIRE_ADMIN_TOKEN", "RUNWIRE_BUS"}
    assert of_kind(answers, values, "Secret") == []


def test_two_scalers_never_set_the_number_of_one_deployment(answers: dict[str, Any]) -> None:
    for values in ("defaults", "production", "on"):
        scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(answers, values, "HorizontalPodAutoscaler")}
        by_keda = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(answers, values, "ScaledObject")}
        fixed = {one["metadata"]["name"] for one in of_kind(answers, values, "Deployment") if "replicas" in one["spec"]}
        assert not scaled & by_keda
        assert not fixed & (scaled | by_keda)


@needs_promtool
def test_a_series_that_is_missing_scales_nothing_down(answers: dict[str, Any], tmp_path: Path) -> None:
    (scaled,) = of_kind(answers, "production", "ScaledObject")
    assert scaled["spec"]["fallback"] == {"failureThreshold": 3, "replicas": 4}
    triggers = scaled["spec"]["triggers"]
    assert [one["name"] for one in triggers] == ["open-runs", "waiting-planner", "waiting-golden"]
    assert {one["metadata"]["ignoreNullValues"] for one in triggers} == {"false"}
    assert {one["metricType"] for one in triggers} == {"AverageValue"}  # a fallback needs it
    queries = [one["metadata"]["query"] for one in triggers]
    assert set(re.findall(r"runwire_\w+", " ".join(queries))) <= {code(row[0]) for row in table("Metrics")}
    series = 'job="runwire", namespace="agents"'
    tests = {
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": f'runwire_runs_active{{{series}, state="pending"}}', "values": "30x4"},
                    {"series": f'runwire_runs_active{{{series}, state="started"}}', "values": "12x4"},
                    {"series": f'runwire_runs_active{{{series}, state="waiting"}}', "values": "500x4"},
                    {"series": f'runwire_run_oldest_unclaimed_seconds{{{series}, agent="planner"}}', "values": "9x4"},
                ],
                "promql_expr_test": [
                    {"expr": query, "eval_time": "45s", "exp_samples": samples}
                    for query, samples in zip(
                        queries, ([{"labels": "{}", "value": 42}], [{"labels": "{}", "value": 9}], []), strict=True
                    )
                ],
            }
        ]
    }
    promtool(tmp_path, tests)


def rules_of(answers: dict[str, Any], values: str) -> dict[str, Any]:
    return {"groups": [group for one in of_kind(answers, values, "PrometheusRule") for group in one["spec"]["groups"]]}


def rules_of_the_tree() -> dict[str, Any]:
    files = [yaml.safe_load((ROOT / "alerts" / f"{name}-rules.yaml").read_text()) for name in ("alert", "recording")]
    return {"groups": [group for file in files for group in file["groups"]]}


def test_rules_are_those_of_the_tree_braces_and_all(answers: dict[str, Any]) -> None:
    assert rules_of(answers, "on") == rules_of_the_tree()
    moved = json.dumps(rules_of(answers, "production"))
    assert "127.0.0.1" not in moved
    assert moved == json.dumps(rules_of_the_tree()).replace(
        "http://127.0.0.1:8080/docs/", "https://runs.shop.example/docs/"
    )


@needs_promtool
def test_prometheus_takes_the_rules_and_they_fire_as_their_cases_say(answers: dict[str, Any], tmp_path: Path) -> None:
    rules = rules_of(answers, "production")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    checked = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    wanted = {
        "ApiDown",
        "OutboxBacklog",
        "PublisherDown",
        "PublishLagPage",
        "RunsUnclaimed",
        "SequenceGap",
        "TargetDown",
    }
    needed = copy.deepcopy(needed_by(wanted, rules))  # other tests read the same rules
    for group in needed["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(needed))
    cases = [asked(case) for case in CASES if case.alert in wanted]
    promtool(tmp_path, {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": cases})


def test_every_process_is_scraped_as_one_job_that_alerts_look_at(answers: dict[str, Any]) -> None:
    jobs = {}
    for values in ("production", "on", "named"):
        (monitor,) = of_kind(answers, values, "ServiceMonitor")
        service = next(one for one in of_kind(answers, values, "Service") if one["spec"].get("clusterIP") == "None")
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert service["spec"]["publishNotReadyAddresses"] is True
        for deployment in of_kind(answers, values, "Deployment"):
            assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        jobs[values] = next(one["replacement"] for one in endpoint["relabelings"] if one["targetLabel"] == SCRAPED)
        for scaled in of_kind(answers, values, "ScaledObject"):
            queries = [one["metadata"]["query"] for one in scaled["spec"]["triggers"]]
            assert all(f'job="{jobs[values]}"' in query for query in queries)
    assert jobs == {"production": "runwire", "on": "runwire-shop", "named": "runwire-eu"}


def test_dashboards_are_those_of_the_tree(answers: dict[str, Any]) -> None:
    maps = [one for one in of_kind(answers, "on", "ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"]]
    held = {name: json.loads(text) for one in maps for name, text in one["data"].items()}
    files = sorted((ROOT / "dashboards").glob("*.json"))
    assert held == {f"runwire-{file.name}": json.loads(file.read_text()) for file in files}


def promtool(folder: Path, tests: dict[str, Any]) -> None:
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

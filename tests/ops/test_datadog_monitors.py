"""Datadog: a monitor for every level, of metrics that the Agent sends, in bodies that its API knows."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pypi import python_with
from runwire.ops.datadog import ELSEWHERE, covered
from runwire.ops.packs import DATADOG
from runwire.ops.thresholds import load
from scripts import script
from telemetry.tables import table

ROOT: Final = Path(__file__).parents[2]
MODELS: Final = Path(__file__).with_name("datadog_models.py")
MONITORS: Final[list[dict[str, Any]]] = json.loads((ROOT / DATADOG / "monitors.json").read_text())
DASHBOARD: Final[dict[str, Any]] = json.loads((ROOT / DATADOG / "dashboard.json").read_text())
QUERIES: Final = {one["name"]: one["query"] for one in MONITORS if one["type"] == "query alert"}
TAGS: Final = {"endpoint"}
"""Tags of the Agent's own."""

render_datadog = script("render_datadog")


def test_every_level_has_a_monitor_or_something_that_watches_instead() -> None:
    thresholds = load(ROOT)
    levels = {
        (name, severity)
        for name, threshold in (thresholds.thresholds | thresholds.watching).items()
        for severity in threshold.levels
        if name not in ELSEWHERE
    }
    assert set(covered()) == levels
    assert len({one["name"] for one in MONITORS}) == len(MONITORS)


@pytest.mark.parametrize("name", QUERIES)
def test_a_monitor_asks_for_what_the_agent_sends(name: str) -> None:
    kinds = dict(render_datadog.documented(canary=True))
    sent = {}
    for metric, kind in kinds.items():
        (named,) = render_datadog.metric(metric).values()
        known_as = f"runwire.{named if isinstance(named, str) else named['name']}"
        sent[f"{known_as}.count" if kind == "counter" else known_as] = kind
    asked = re.findall(r"(\w+):(runwire\.[a-z0-9_.]+)\{([^}]*)\}(?: by \{([^}]*)\})?", QUERIES[name])
    assert len(asked) == QUERIES[name].count("runwire.")
    labels = {label for row in table("Metrics") for label in re.findall(r"(\w+)(?::|;|,|$)", row[3])} | TAGS
    for aggregator, metric, scope, by in asked:
        assert metric in sent
        assert (aggregator == "p95") == (sent[metric] == "histogram")
        assert metric.endswith(".count") == (aggregator == "sum")
        assert {tag.partition(":")[0].strip("!") for tag in scope.split(",") if tag != "*"} <= labels
        assert set(filter(None, by.split(","))) <= labels
    assert (".as_count()" in QUERIES[name]) == QUERIES[name].startswith("sum(")


@pytest.fixture(scope="module")
def complaints() -> Callable[..., list[str]]:
    python = python_with("datadog-api-client==2.62.0", into="datadog-client")

    def check(**bodies: list[dict[str, Any]]) -> list[str]:
        done = subprocess.run(
            [python, MODELS], input=json.dumps(bodies), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        found: list[str] = json.loads(done.stdout)
        return found

    return check


def test_datadogs_own_models_know_every_key_and_value(complaints: Callable[..., list[str]]) -> None:
    monitor, board = copy.deepcopy(MONITORS[0]), copy.deepcopy(DASHBOARD)
    monitor |= {"name": "wrong", "type": "no alert"}
    monitor["options"]["colour"] = "red"
    board["title"] = "wrong"
    board["widgets"][0]["definition"]["markers"][0]["lable"] = "x"
    board["widgets"][1]["definition"]["requests"][0]["display_type"] = "lines"
    found = complaints(Monitor=[*MONITORS, monitor], Dashboard=[DASHBOARD, board])
    assert [one for one in found if not one.startswith("wrong: ")] == []
    for mistake in (".options.colour", ".type", "markers[0].lable", "widgets[1]"):
        assert [one for one in found if mistake in one], (mistake, found)


def test_a_graph_has_a_line_where_each_of_its_monitors_fires() -> None:
    for widget in DASHBOARD["widgets"]:
        (request,) = widget["definition"]["requests"]
        fires = {query.rpartition(" > ")[2] for query in QUERIES.values() if f":{request['q']} > " in query}
        assert {f"y = {value}" for value in fires} == {marker["value"] for marker in widget["definition"]["markers"]}

"""Dashboards: every query is PromQL on series that exist, every limit leads to where it is explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from docs.pages import RUNBOOK, headings
from runwire.ops import dashboards
from runwire.ops.render import recording_groups
from runwire.ops.rules import Recording
from runwire.ops.thresholds import Severity, Threshold, Thresholds, load

ROOT = Path(__file__).parents[2]
THRESHOLDS = load(ROOT)
BOARDS = {name: json.loads(text) for name, text in dashboards.rendered(THRESHOLDS).items()}
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$job": "runwire", "$instance": ".*"}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


def panels(boards: dict[str, Any] = BOARDS) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, board in boards.items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield f"{name}: {panel['title']}", panel


def queries() -> Iterator[tuple[str, str]]:
    for where, panel in panels():
        for target in panel["targets"]:
            yield where, target["expr"]
    for name, board in BOARDS.items():
        for annotation in board["annotations"]["list"]:
            yield name, annotation["expr"]


def steps(panel: dict[str, Any]) -> list[float]:
    found = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return [step["value"] for step in found if step["value"] is not None]


def test_there_are_five_and_their_addresses_stay() -> None:
    assert [board["uid"] for board in BOARDS.values()] == [
        "runwire-overview", "runwire-outbox", "runwire-runs", "runwire-sse", "runwire-infrastructure",
    ]  # fmt: skip


@needs_promtool
def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = []
    for number, (_, expr) in enumerate(queries()):
        for variable, value in VARIABLES.items():
            expr = expr.replace(variable, value)  # noqa: PLW2901  # filled in as Grafana does
        assert "$" not in expr
        rules.append({"record": f"query_{number}", "expr": expr})
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(tmp_path / "queries.yaml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_query_follows_the_variables_of_its_dashboard() -> None:
    for where, expr in queries():
        assert "$job" in expr, where
        assert set(re.findall(r"\[([^\]]+)\]", expr)) <= {"$__rate_interval", "$__range"}, where


def test_recorded_series_that_dashboards_use_are_recorded() -> None:
    recorded = {
        rule.name for group in recording_groups(THRESHOLDS) for rule in group.rules if isinstance(rule, Recording)
    }
    used = {name for _, expr in queries() for name in re.findall(r"\bjob:[a-z0-9_:]+", expr)}
    assert used
    assert used <= recorded


def test_latencies_show_exemplars() -> None:
    latencies = [
        target
        for _, panel in panels()
        if panel["type"] == "timeseries" and panel["fieldConfig"]["defaults"]["unit"] == "s"
        for target in panel["targets"]
        if "histogram_quantile" in target["expr"]
    ]
    assert latencies
    assert all(target["exemplar"] for target in latencies)


def test_lines_of_the_publish_lag_are_the_limits_of_its_alerts() -> None:
    limits = [THRESHOLDS.value("publish_lag", severity) for severity in Severity]
    shown = [steps(panel) for where, panel in panels() if where.endswith(": Publish lag")]
    assert shown == [limits, limits]


def test_every_step_of_colour_comes_from_the_thresholds_or_says_whether_there_is_one_at_all() -> None:
    """Other numbers in the file, other steps: one that stays is written in the code."""
    others = _with_other_numbers(THRESHOLDS)
    changed = {name: json.loads(text) for name, text in dashboards.rendered(others).items()}
    stayed = []
    for (where, panel), (_, other) in zip(panels(), panels(changed), strict=True):
        steps_of_both = zip(_coloured(panel), _coloured(other), strict=True)
        stayed += [(where, now) for now, then in steps_of_both if now == then]
    presence = [where for where, step in stayed if step == 1]
    assert sorted(presence) == [
        "infrastructure: Processes up",
        "outbox: Publishers",
        "overview: Canary",
        "overview: Firing alerts",
    ]
    assert stayed == [(where, 1) for where in presence]


def _coloured(panel: dict[str, Any]) -> list[float]:
    found = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())
    return [step["value"] for step in found if step["value"] is not None]


def _with_other_numbers(thresholds: Thresholds) -> Thresholds:
    def other(levels: dict[str, Threshold]) -> dict[str, Threshold]:
        return {
            name: replace(
                one, levels={sev: replace(level, value=level.value * 1.5 + 0.01) for sev, level in one.levels.items()}
            )
            for name, one in levels.items()
        }

    slos = thresholds.slos
    return replace(
        thresholds,
        thresholds=other(thresholds.thresholds),
        watching=other(thresholds.watching),
        shown=other(thresholds.shown),
        slos=replace(
            slos,
            objectives={
                name: replace(one, within_s=one.within_s and one.within_s * 1.5)
                for name, one in slos.objectives.items()
            },
            burn_rates={
                name: replace(burn, pairs=tuple(replace(pair, factor=pair.factor * 1.5) for pair in burn.pairs))
                for name, burn in slos.burn_rates.items()
            },
        ),
    )


def test_an_axis_reaches_the_limits_that_are_drawn_on_it() -> None:
    limited = 0
    for where, panel in panels():
        style = panel["fieldConfig"]["defaults"].get("custom", {})
        if style.get("thresholdsStyle", {}).get("mode") == "dashed":
            limited += 1
            assert style["axisSoftMax"] >= max(steps(panel)), where
    assert limited > 10


def test_panels_have_a_unit_a_description_and_the_data_source_that_is_chosen() -> None:
    for where, panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], where
        assert panel["description"].endswith("."), where
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}, where


@pytest.mark.parametrize("name", list(BOARDS))
def test_panels_have_ids_of_their_own_and_fill_the_grid_without_overlap(name: str) -> None:
    placed = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    taken = [
        (x, y)
        for panel in placed
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)


def test_a_legend_has_room_where_it_stands() -> None:
    """Two values of each series do not fit a third of the width, and of many series only a table shows the highest."""
    for where, panel in panels():
        if panel["type"] != "timeseries":
            continue
        legend = panel["options"]["legend"]
        if legend["displayMode"] == "list":
            assert panel["gridPos"]["w"] >= 12 or len(legend["calcs"]) == 1, where
        else:
            assert (legend["sortBy"], legend["sortDesc"]) == ("Max", True), where


def test_links_lead_to_headings_of_the_runbook() -> None:
    anchors = {anchor for _, _, anchor in headings(RUNBOOK)}
    linked = [link["url"] for _, panel in panels() for link in panel.get("links", ())]
    assert len(linked) > 20
    for url in linked:
        page, _, anchor = url.partition("#")
        assert page == THRESHOLDS.links.runbook
        assert anchor in anchors


@pytest.mark.parametrize("name", list(BOARDS))
def test_a_dashboard_leads_to_the_others_to_the_runbook_and_to_traces(name: str) -> None:
    links = {link["title"]: link for link in BOARDS[name]["links"]}
    assert set(links) == {"runwire", "Runbook", "Traces"}
    assert links["runwire"]["tags"] == BOARDS[name]["tags"]
    first = BOARDS[name]["panels"][0]
    assert (first["type"], first["gridPos"]["x"], first["gridPos"]["y"]) == ("stat", 0, 0)


def test_series_that_a_panel_colours_are_among_its_own() -> None:
    for where, panel in panels():
        if panel["type"] != "timeseries":
            continue
        legends = [target["legendFormat"] for target in panel["targets"]]
        for override in panel["fieldConfig"]["overrides"]:
            name = override["matcher"]["options"]
            assert name in legends or any("{{" in legend for legend in legends), (where, name)

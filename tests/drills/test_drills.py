"""Every alert is raised by a real fault, muted where it should be, and over after the runbook's step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docs.pages import RUNBOOK, headings
from drills import report
from drills.baseline import HEALTHY_S
from drills.campaign import BASELINE, Campaign
from drills.catalogue import DRILLS, PLANS, WITHOUT_DRILL
from drills.drill import Drill
from drills.mutation import CUT, campaigns, missed_s
from drills.pressure import BUSY
from drills.report import HEADERS, NOT_YET, rows_of, wanted_rows, write_rows
from drills.rules import alert_names, left_out, rules

pytestmark = pytest.mark.timeout(1200)
EACH = [pytest.param(drill, id=drill.name, marks=pytest.mark.drill(drill.name)) for drill in DRILLS]


def test_every_alert_has_a_drill_or_a_reason() -> None:
    drilled = {alert for drill in DRILLS for alert in drill.fires}
    assert drilled | set(WITHOUT_DRILL) == set(alert_names())
    assert not drilled & set(WITHOUT_DRILL), "a reason that is none any more"


@pytest.mark.parametrize("section", HEADERS)
def test_the_page_has_a_row_for_each_alert_of_each_drill_and_no_others(section: str) -> None:
    """`make drills DRILLS_REPORT=1` and `make drills-mutation` write them."""
    assert [(row.alert, row.drill) for row in rows_of(section)] == wanted_rows()


def test_a_report_of_some_drills_keeps_the_rows_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "drills.md"
    page.write_text("<!-- mutation:begin -->\n<!-- mutation:end -->\n")
    monkeypatch.setattr(report, "PAGE", page)
    first, second, *_ = wanted_rows()

    def commits() -> list[str]:
        assert [(row.alert, row.drill) for row in rows_of("mutation")] == wanted_rows()
        return [row.line.split(" | ")[-1].rstrip("| ") for row in rows_of("mutation")][:3]

    write_rows("mutation", [f"| `{second[0]}` | {second[1]} | 2.0 | `b` |", "| `Gone` | a former drill | 1.0 | `b` |"])
    assert commits() == [NOT_YET, "`b`", NOT_YET]
    write_rows("mutation", [f"| `{first[0]}` | {first[1]} | 1.0 | `a` |"])
    write_rows("mutation", [f"| `{second[0]}` | {second[1]} | 3.0 | `c` |"])
    assert commits() == ["`a`", "`c`", NOT_YET]


def test_every_recovery_step_is_in_the_runbook() -> None:
    anchors = {anchor for _, _, anchor in headings(RUNBOOK)}
    assert {drill.runbook for drill in DRILLS} <= anchors


def test_a_rule_that_is_left_out_still_says_when_its_condition_holds_and_to_nobody() -> None:
    names = ["OldestEventUnpublished", "PublishSloFastBurn"]
    everything, some = ({rule.get("alert"): rule for rule in _rules(without)} for without in ([], names))
    for name in names:
        assert name not in some
        assert some[left_out(name)]["expr"] == everything[name]["expr"]
        assert some[left_out(name)]["labels"]["severity"] == "none"
    assert len(some) == len(everything)


def test_no_drill_misses_two_rules_in_one_campaign_and_each_misses_each_once() -> None:
    alerts = {alert for drill in DRILLS for alert in drill.fires}
    found = campaigns(alerts)
    assert sorted(alert for campaign in found for alert in campaign) == sorted(alerts)
    for campaign in found:
        for drill in DRILLS:
            assert len({*drill.fires, *drill.mutes} & set(campaign)) <= 1


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        ("AssertionError: TargetDown not firing, though its condition held after 3.2 s; heard of nothing", 3.2),
        ("TargetDown not firing, though its condition held after 3.2 s; heard o...\n" + CUT, 3.2),
        ("TargetDown not firing, though its condition held after 3.2 s; he...\n[+1 more line; full report]", None),
        ("TargetDown not firing; heard of nothing", None),
        ("OtherDown not firing, though its condition held after 3.2 s; heard of nothing", None),
        ("TargetDown not firing, though its condition held after 3.2 s; heard of nothing\nnot muted: ['X']", None),
        ("nothing: it went well", None),
    ],
)
def test_a_drill_counts_as_failed_for_want_of_a_rule_when_it_says_so_and_nothing_else(
    reason: str, seconds: float | None
) -> None:
    assert missed_s("TargetDown", reason) == seconds


def _rules(without: list[str]) -> list[dict[str, Any]]:
    return [rule for group in rules(scale=1, without=without)["groups"] for rule in group["rules"]]


@pytest.mark.drill(BASELINE)
def test_nothing_fires_while_nothing_is_wrong(campaign: Campaign) -> None:
    seen = campaign.baseline()
    assert seen.firing == {"Watchdog"}
    assert seen.told == {"Watchdog"}
    assert seen.quiet_s >= HEALTHY_S or seen.cpu_waits > BUSY, "alerts fired, and not for want of a CPU"


@pytest.mark.drill(BASELINE)
def test_every_panel_of_every_dashboard_has_data(campaign: Campaign) -> None:
    seen = campaign.baseline()
    assert seen.wrong_panels == ()
    assert seen.panels > 0
    assert seen.empty_panels == ()


@pytest.mark.parametrize("drill", EACH)
def test_a_fault_is_told_of_and_so_is_its_end(drill: Drill, campaign: Campaign) -> None:
    outcome = campaign.outcome(drill.name)
    assert {course.alert for course in outcome.courses} == set(drill.fires)
    assert set(outcome.muted) == set(drill.mutes)


@pytest.mark.drill
@pytest.mark.parametrize("stage_name", PLANS)
def test_nobody_is_told_of_anything_else(stage_name: str, campaign: Campaign) -> None:
    assert campaign.unexpected(stage_name) == set()

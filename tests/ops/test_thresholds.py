"""A file of numbers that cannot be right is refused, and the refusal says where."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runwire.errors import ConfigurationError
from runwire.ops.durations import spoken
from runwire.ops.judgements import MODULE
from runwire.ops.render import render
from runwire.ops.tables import with_table
from runwire.ops.thresholds import FILE, Severity, load

ROOT = Path(__file__).parents[2]
GOOD = yaml.safe_load((ROOT / FILE).read_text())


def set_at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        at: Any = document
        for part in parents:
            at = at[int(part)] if part.isdecimal() else at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_at("thresholds/publish_lag/levels/warning/value", 0.7), "publish_lag: each level must be above"),
        (set_at("thresholds/publish_lag/unit", "milliseconds"), "publish_lag: unit is a base unit"),
        (set_at("thresholds/sse_churn/shown_in", "minutes"), "sse_churn: shown_in is for seconds, bytes and ratios"),
        (set_at("thresholds/outbox_backlog/levels/page/window", None), "outbox_backlog: `what` names a window"),
        (set_at("watching/publish_lag", GOOD["thresholds"]["publish_lag"]), "publish_lag: named twice"),
        (set_at("slos/burn_rates/fast/pairs/0/short", "30d"), "slos.burn_rates.fast: the short window 30d"),
        (set_at("slos/objectives/publish/within_s", None), "slos.objectives.publish: within_s is missing"),
        (set_at("slos/objectives/run", None), "slos.objectives: run missing"),
        (set_at("shown/failed_runs/shown_in", "minutes"), "failed_runs: shown_in is for seconds, bytes and ratios"),
        (set_at("shown/target_down", GOOD["watching"]["target_down"]), "target_down: named twice"),
        (set_at("diagnosis/lock_wait", None), "diagnosis: lock_wait missing"),
        (set_at("routing/page", None), "routing: page missing"),
        (set_at("thresholds/run_stalled/again_above", [4, 1]), "run_stalled: each level must be above"),
        (set_at("thresholds/sse_churn/again_above", [20]), "sse_churn: again_above needs a level `page`"),
        (set_at("thresholds/sse_heartbeat/levels/critical/follows/setting", "heartbeat"), "follows.setting"),
        (set_at("thresholds/oldest_unpublished/page_at_once/value", 4), "each level must be above"),
        (set_at("thresholds/oldest_unpublished/page_at_once/for", "1m"), "page_at_once waits for nothing"),
        (set_at("thresholds/oldest_unpublished/levels/page/for", None), "page_at_once needs a level `page` that waits"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / FILE).read_text())
    change(document)
    (tmp_path / "alerts").mkdir()
    (tmp_path / FILE).write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path)
    assert said in str(refused.value)


def test_a_file_that_is_missing_or_no_yaml_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is missing"):
        load(tmp_path)
    (tmp_path / "alerts").mkdir()
    for text in ("a: [", "just text"):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ConfigurationError, match=r"thresholds\.yaml"):
            load(tmp_path)


def test_a_rule_cannot_be_made_from_a_number_that_is_not_there() -> None:
    thresholds = load(ROOT)
    with pytest.raises(ConfigurationError, match="threshold 'nothing' is missing"):
        thresholds.named("nothing")
    with pytest.raises(ConfigurationError, match="lacks 'warning'"):
        thresholds.level("outbox_backlog", Severity.WARNING)
    with pytest.raises(ConfigurationError, match="needs `rate_at_least`"):
        thresholds.rate_at_least("publish_lag", Severity.PAGE)
    with pytest.raises(ConfigurationError, match="needs a window"):
        thresholds.window("run_stalled", Severity.PAGE)


def test_a_scale_divides_what_scales_and_nothing_else() -> None:
    thresholds = load(ROOT, scale=60)
    assert thresholds.value("runs_unclaimed", Severity.PAGE) == 2
    assert thresholds.value("publish_lag", Severity.PAGE) == 1


def test_a_limit_that_follows_a_setting_stays_between_its_ends() -> None:
    thresholds = load(ROOT)
    assert thresholds.following("sse_heartbeat", Severity.CRITICAL, setting="s") == "clamp(2 * s, 30, 120)"
    assert thresholds.following("retention", Severity.WARNING, setting="s") == "clamp_min(s + 86400, 2678400)"
    drilled = load(ROOT, scale=20)
    assert drilled.following("sse_heartbeat", Severity.CRITICAL, setting="s") == "clamp(2 * s, 1.5, 6)"
    assert drilled.at_least("part_lag", Severity.CRITICAL) == 1
    said = thresholds.named("retention").said(Severity.WARNING)
    assert said == "> 31 days, or `RUNWIRE_ARCHIVE_AFTER_DAYS` + 1 days"
    with pytest.raises(ConfigurationError, match="needs `follows`"):
        thresholds.following("run_stalled", Severity.PAGE, setting="s")


def test_a_rendered_file_that_is_no_longer_wanted_goes(tmp_path: Path) -> None:
    for folder in ("alerts", "docs", "dashboards", "deploy"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / MODULE).parent.mkdir(parents=True)
    shutil.copy(ROOT / MODULE, tmp_path / MODULE)
    stray = tmp_path / "alerts" / "old-rules.yaml"
    stray.write_text((ROOT / "alerts" / "alert-rules.yaml").read_text())
    (tmp_path / "dashboards" / "sse.json").unlink()
    changes = {(str(drift.path), drift.change.value) for drift in render(tmp_path)}
    assert changes == {("alerts/old-rules.yaml", "stray"), ("dashboards/sse.json", "missing")}
    assert not stray.exists()
    assert render(tmp_path, check=True) == []


def test_a_page_without_its_markers_and_a_text_that_is_no_duration_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lacks the markers"):
        with_table("a page", "thresholds", "| a |")
    assert spoken("2m") == "2 min"
    with pytest.raises(ValueError, match="no duration"):
        spoken("soon")

"""Everything rendered from the thresholds: written where it lies in the tree, or compared with what lies there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from runwire.ops import dashboards
from runwire.ops.alertmanager import alertmanager
from runwire.ops.canary_alerts import canary_alerts
from runwire.ops.content_alerts import content_alerts
from runwire.ops.database_alerts import database_alerts
from runwire.ops.judgements import MODULE, judgements
from runwire.ops.pipeline_alerts import pipeline_alerts, recordings, stream_alerts, watching_alerts
from runwire.ops.process_alerts import process_alerts
from runwire.ops.rules import Group, rule_file
from runwire.ops.service_alerts import service_alerts
from runwire.ops.slo_rules import slo_alerts, slo_recordings
from runwire.ops.tables import runbook_tables, with_table
from runwire.ops.thresholds import Thresholds, load
from runwire.ops.work_alerts import work_alerts
from runwire.ops.yaml_text import HEADER, dump

RUNBOOK: Final = Path("docs") / "runbooks" / "run-diagnostics.md"


class Change(StrEnum):
    """The difference between a file and its rendering. `stray`: rendered once, and no longer."""

    MISSING = "missing"
    DIFFERS = "differs"
    STRAY = "stray"


@dataclass(frozen=True, slots=True)
class Drift:
    path: Path
    """Relative to where things are rendered to."""
    change: Change


def render(
    root: Path, *, check: bool = False, scale: float = 1.0, out: Path | None = None, webhook: str | None = None
) -> list[Drift]:
    """Renders the files and returns those that differed. With `check` it writes nothing.

    `root` is the source tree. `out` renders elsewhere, without the runbook and what the service judges by. `scale`
    divides all durations; `webhook` gets Alertmanager's messages. Raises ConfigurationError when the thresholds or the
    runbook are not as they must be.
    """
    thresholds = load(root, scale=scale)
    wanted = rendered(thresholds, webhook=webhook)
    if out is None:
        wanted[RUNBOOK] = _runbook(root, thresholds)
        wanted[MODULE] = judgements(thresholds)
    target = out or root
    drifts = list(_drifts(target, wanted))
    if not check:
        for drift in drifts:
            _write(target / drift.path, wanted.get(drift.path))
    return drifts


def rendered(thresholds: Thresholds, *, webhook: str | None = None) -> dict[Path, str]:
    """The text of each file that watches, by its path in the tree."""
    alerts = Path("alerts")
    return {
        alerts / "recording-rules.yaml": dump(rule_file(recording_groups(thresholds), thresholds)),
        alerts / "alert-rules.yaml": dump(rule_file(alert_groups(thresholds), thresholds)),
        alerts / "alertmanager.yaml": dump(alertmanager(thresholds, webhook=webhook)),
        **{Path("dashboards") / f"{name}.json": text for name, text in dashboards.rendered(thresholds).items()},
    }


def recording_groups(thresholds: Thresholds) -> tuple[Group, ...]:
    return recordings(thresholds), slo_recordings(thresholds)


def alert_groups(thresholds: Thresholds) -> tuple[Group, ...]:
    return (
        pipeline_alerts(thresholds),
        work_alerts(thresholds),
        content_alerts(thresholds),
        stream_alerts(thresholds),
        database_alerts(thresholds),
        service_alerts(thresholds),
        process_alerts(thresholds),
        canary_alerts(thresholds),
        slo_alerts(thresholds),
        watching_alerts(thresholds),
    )


def _runbook(root: Path, thresholds: Thresholds) -> str:
    page = (root / RUNBOOK).read_text(encoding="utf-8")
    for name, table in runbook_tables(thresholds).items():
        page = with_table(page, name, table)
    return page


def _drifts(target: Path, wanted: dict[Path, str]) -> Iterator[Drift]:
    for path, text in wanted.items():
        if not (target / path).is_file():
            yield Drift(path, Change.MISSING)
        elif (target / path).read_text(encoding="utf-8") != text:
            yield Drift(path, Change.DIFFERS)
    for folder, mark in (("alerts", HEADER), ("dashboards", dashboards.MARK)):
        for path in sorted((target / folder).glob("*.*")):
            inside = path.relative_to(target)
            if inside not in wanted and mark in path.read_text(encoding="utf-8"):
                yield Drift(inside, Change.STRAY)


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

"""Everything rendered from the thresholds: written where it lies in the tree, or compared with what lies there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from runwire.ops import dashboards
from runwire.ops.alertmanager import alertmanager
from runwire.ops.canary_alerts import canary_alerts
from runwire.ops.content_alerts import content_alerts
from runwire.ops.database_alerts import database_alerts
from runwire.ops.judgements import MODULE, judgements
from runwire.ops.kubernetes import prometheus_rule
from runwire.ops.packs import CHART, packs
from runwire.ops.pipeline_alerts import pipeline_alerts, recordings, stream_alerts, watching_alerts
from runwire.ops.process_alerts import process_alerts
from runwire.ops.receivers import Receiver, with_receivers
from runwire.ops.rules import Group, rule_file
from runwire.ops.scope import Scope
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


class Format(StrEnum):
    """`files` for Prometheus and Alertmanager; `prometheusrule` for the Prometheus Operator of Kubernetes."""

    FILES = "files"
    PROMETHEUSRULE = "prometheusrule"


@dataclass(frozen=True, slots=True)
class Target:
    """For whom the files are rendered, outside the source tree."""

    scope: Scope = field(default_factory=Scope)
    format: Format = Format.FILES
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the PrometheusRule."""
    runbook_url: str | None = None
    webhook: str | None = None
    """URL to which Alertmanager sends its messages."""
    receivers: tuple[Receiver, ...] = ()
    """Receivers in place of the webhook, by name."""


OURS: Final = Target()
"""The tree's own files: one deployment in its Prometheus."""


def render(
    root: Path | None,
    *,
    check: bool = False,
    scale: float = 1.0,
    out: Path | None = None,
    target: Target = OURS,
) -> list[Drift]:
    """Renders the files and returns those that differed. With `check` it writes nothing.

    `root` is the source tree; without one the thresholds are those of the installed package. `out` renders elsewhere,
    without the runbook, the packs and what the service judges by. `scale` divides all durations. Raises
    ConfigurationError when the thresholds or the runbook are not as they must be.
    """
    thresholds = load(root, scale=scale, runbook=target.runbook_url)
    wanted = rendered(thresholds, target)
    if out is None and root is not None:
        wanted[RUNBOOK] = _runbook(root, thresholds)
        wanted[MODULE] = judgements(thresholds)
        wanted |= packs(thresholds, alert_groups(thresholds), wanted)
    folder = out or root or Path()
    drifts = list(_drifts(folder, wanted))
    if not check:
        for drift in drifts:
            _write(folder / drift.path, wanted.get(drift.path))
    return drifts


def rendered(thresholds: Thresholds, target: Target) -> dict[Path, str]:
    """The text of each file that watches, by its path in the tree."""
    alerts, scope = Path("alerts"), target.scope
    recorded, alerting = recording_groups(thresholds), alert_groups(thresholds)
    boards = {
        Path("dashboards") / f"{name}.json": scope.dashboard(text) if scope != Scope() else text
        for name, text in dashboards.rendered(thresholds).items()
    }
    if target.format is Format.PROMETHEUSRULE:
        document = scope.rules(rule_file((*recorded, *alerting), thresholds))
        return {alerts / "prometheusrule.yaml": dump(prometheus_rule(document, labels=target.labels)), **boards}
    routing = with_receivers(alertmanager(thresholds, webhook=target.webhook), target.receivers)
    return {
        alerts / "recording-rules.yaml": dump(scope.rules(rule_file(recorded, thresholds))),
        alerts / "alert-rules.yaml": dump(scope.rules(rule_file(alerting, thresholds))),
        alerts / "alertmanager.yaml": dump(scope.routing(routing)),
        **boards,
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
    for folder, mark in (
        (Path("alerts"), HEADER),
        (Path("dashboards"), dashboards.MARK),
        (CHART / "rules", HEADER),
        (CHART / "dashboards", dashboards.MARK),
    ):
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

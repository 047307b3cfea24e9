"""The tables of the runbook that are made from the thresholds."""

from __future__ import annotations

from collections.abc import Iterable

from runwire.errors import ConfigurationError
from runwire.ops import durations
from runwire.ops.slo_rules import alert_name
from runwire.ops.thresholds import Severity, Threshold, Thresholds, Unit, amount


def runbook_tables(thresholds: Thresholds) -> dict[str, str]:
    """Table by the name of its markers."""
    return {
        "thresholds": _levels(thresholds.thresholds.values()),
        "watching": _levels(thresholds.watching.values()),
        "shown": _levels(thresholds.shown.values()),
        "diagnosis": _table(
            ["what", "a fault from", "why"],
            ([one.what, amount(one.value, Unit.SECONDS), one.why] for one in thresholds.diagnosis.values()),
        ),
        "slos": _slos(thresholds),
    }


def with_table(page: str, name: str, table: str) -> str:
    """The page with what is between `<!-- name:begin -->` and `<!-- name:end -->` replaced.

    Raises ConfigurationError when the page lacks the markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ConfigurationError((f"the runbook lacks the markers {begin} and {end}",))
    return f"{before}{begin}\n\n{table}\n{end}{after}"


def _levels(rows: Iterable[Threshold]) -> str:
    return _table(
        ["what", *(severity.value for severity in Severity)],
        ([row.title(), *(row.said(severity) for severity in Severity)] for row in rows),
    )


def _slos(thresholds: Thresholds) -> str:
    slos = thresholds.slos
    speeds = [
        f"{speed} burn ({burn.severity.value}): "
        + " or ".join(f"{pair.factor:g} x over {pair.long} and {pair.short}" for pair in burn.pairs)
        for speed, burn in slos.burn_rates.items()
    ]
    return _table(
        [f"objective over {durations.spoken(slos.window)}", *speeds],
        (
            [
                f"{objective.objective * 100:g} % {objective.title()}",
                *(f"[{alert_name(name, speed)}](#{alert_name(name, speed).lower()})" for speed in slos.burn_rates),
            ]
            for name, objective in slos.objectives.items()
        ),
    )


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|\n" for line in lines).replace(
        "| --- ", "|---"
    )

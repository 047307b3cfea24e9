"""The data that Grafana would give the panels of a dashboard: fills in each query's variables and runs it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from pictures.prometheus import SCRAPE_S, Prometheus

STEP_S: Final = SCRAPE_S
# As Grafana reckons it: the larger of step + scrape interval and four scrape intervals.
RATE_S: Final = max(STEP_S + SCRAPE_S, 4 * SCRAPE_S)
EXEMPLARS: Final = 40
"""At most as many of a panel, the highest of their moments, as Grafana thins them out, too."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Seconds of the epoch."""

    start: float
    end: float

    def filled(self, expression: str) -> str:
        for variable, value in (
            ("$__rate_interval", f"{RATE_S}s"),
            ("$__range", f"{self.end - self.start:.0f}s"),
            ("$job", ".*"),
            ("$instance", ".*"),
        ):
            expression = expression.replace(variable, value)
        return expression


async def asked(board: dict[str, Any], prometheus: Prometheus, shown: Shown) -> dict[str, Any]:
    """By panel: answers by query, and exemplars. With them the annotations."""
    answers: dict[int, dict[str, Any]] = {}
    exemplars: dict[int, list[dict[str, float]]] = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = shown.filled(target["expr"])
            if target.get("instant"):
                answer = await prometheus.get("query", query=query, time=str(shown.end))
            else:
                answer = await _over(prometheus, query, shown)
            answers.setdefault(panel["id"], {})[target["refId"]] = answer
            if target.get("exemplar") and panel["id"] not in exemplars:
                exemplars[panel["id"]] = await _exemplars(prometheus, query, shown)
    return {"answers": answers, "exemplars": exemplars, "annotations": await _annotations(board, prometheus, shown)}


async def _over(prometheus: Prometheus, query: str, shown: Shown) -> Any:
    return await prometheus.get(
        "query_range", query=query, start=str(shown.start), end=str(shown.end), step=f"{STEP_S}s"
    )


async def _exemplars(prometheus: Prometheus, query: str, shown: Shown) -> list[dict[str, float]]:
    found = await prometheus.get("query_exemplars", query=query, start=str(shown.start), end=str(shown.end))
    every = sorted(
        (
            {"at": float(one["timestamp"]), "value": float(one["value"])}
            for series in found
            for one in series["exemplars"]
        ),
        key=lambda one: one["at"],
    )
    wide = (shown.end - shown.start) / EXEMPLARS
    return [max(group, key=lambda one: one["value"]) for _, group in groupby(every, key=lambda one: one["at"] // wide)]


async def _annotations(board: dict[str, Any], prometheus: Prometheus, shown: Shown) -> list[dict[str, Any]]:
    """Stretches in which the annotation's query gave something."""
    regions = []
    for one in board["annotations"]["list"]:
        found = await _over(prometheus, f"count({shown.filled(one['expr'])})", shown)
        stamps = [float(at) for series in found["result"] for at, _ in series["values"]]
        began = None
        for at, following in zip(stamps, [*stamps, None][1:], strict=True):
            began = at if began is None else began
            if following is None or following - at > 2 * STEP_S:
                regions.append({"start": began, "end": at, "color": one["iconColor"]})
                began = None
    return regions

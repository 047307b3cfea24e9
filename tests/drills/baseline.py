"""Nothing is wrong: what must be silent then, and what must be visible."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from drills.rules import ROOT
from drills.stage import Stage

HEALTHY_S: Final = 15.0
"""At the scale of the drills: five minutes."""
VARIABLES: Final = {
    "__rate_interval": "2s",
    "__interval": "1s",
    "__range": "15s",
    "__range_s": "15",
    "job": ".+",
    "instance": ".+",
    "datasource": "prometheus",
}
WITHOUT_DATA: Final[Mapping[str, str]] = {"overview: Firing alerts": "Nothing fires while nothing is wrong."}
"""Panels, as `dashboard: title`, that show nothing while all is well, and why."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was seen while nothing was wrong."""

    firing: frozenset[str]
    told: frozenset[str]
    empty_panels: tuple[str, ...]
    wrong_panels: tuple[str, ...]
    panels: int


async def healthy(stage: Stage) -> Baseline:
    """Watches a while under load, then asks every panel of every dashboard."""
    firing: set[str] = set()
    deadline = asyncio.get_running_loop().time() + HEALTHY_S
    while asyncio.get_running_loop().time() < deadline:
        firing |= {one["labels"]["alertname"] for one in await stage.prometheus.alerts() if one["state"] == "firing"}
        await asyncio.sleep(0.25)
    empty: list[str] = []
    wrong: list[str] = []
    queries = list(panel_queries())
    for panel, query in queries:
        try:
            found = await stage.prometheus.query(query)
        except AssertionError as error:
            wrong.append(f"{panel}: {error}")
            continue
        if not found:
            empty.append(f"{panel}: {query}")
    return Baseline(
        frozenset(firing),
        frozenset(stage.pager.fired()),
        tuple(empty),
        tuple(wrong),
        len({panel for panel, _ in queries}),
    )


def panel_queries() -> Iterator[tuple[str, str]]:
    """(`dashboard: title`, query) of every query there is, with the variables filled in as Grafana does."""
    for path in sorted((ROOT / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in _panels(dashboard.get("panels", [])):
            for target in panel.get("targets", []):
                if target.get("expr"):
                    yield f"{path.stem}: {panel.get('title', '')}", filled_in(target["expr"])


def filled_in(query: str) -> str:
    return re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda match: VARIABLES.get(match[1], match[0]), query)


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", []))

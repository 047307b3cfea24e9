"""Nothing is wrong: what must be silent then, and what must be visible."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from drills.pressure import OF_A_BUSY_MACHINE, CpuWaits
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
WITHOUT_DATA: Final[Mapping[str, str]] = {"overview: What fires": "Nothing fires while nothing is wrong."}
"""Panels, as `dashboard: title`, that show nothing while all is well, and why."""


PATIENCE_S: Final = 60.0
"""How long to wait for a machine that is calm."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Observations while nothing was wrong.

    `quiet_s`: how long nothing fired at all. `firing`: what fired at any time, but for what a busy machine may show;
    `cpu_waits` is the share of the time in which it was one.
    """

    quiet_s: float
    cpu_waits: float
    firing: frozenset[str]
    told: frozenset[str]
    empty_panels: tuple[str, ...]
    wrong_panels: tuple[str, ...]
    panels: int


async def healthy(stage: Stage) -> Baseline:
    """Watches under load until nothing has fired for a while, then asks every panel of every dashboard."""
    firing: set[str] = set()
    began = quiet_since = time.monotonic()
    waits = CpuWaits()
    quiet_s = 0.0
    while quiet_s < HEALTHY_S and time.monotonic() - began < PATIENCE_S:
        now = await stage.firing()
        firing |= now
        if now & OF_A_BUSY_MACHINE:
            quiet_since = time.monotonic()
        quiet_s = max(quiet_s, time.monotonic() - quiet_since)
        await asyncio.sleep(0.25)
    busy = waits.share
    told = stage.pager.fired()
    panels, (empty, wrong) = await _panels_asked(stage)
    quiet = frozenset(firing - OF_A_BUSY_MACHINE), frozenset(told - OF_A_BUSY_MACHINE)
    return Baseline(quiet_s, busy, *quiet, tuple(empty), tuple(wrong), panels)


async def _panels_asked(stage: Stage) -> tuple[int, tuple[list[str], list[str]]]:
    """How many panels there are; which queries found nothing and which are wrong, after they have had some time."""
    queries = list(panel_queries())
    deadline = time.monotonic() + HEALTHY_S
    left, wrong = queries, list[str]()
    while True:
        empty: list[tuple[str, str]] = []
        for panel, query in left:
            try:
                found = await stage.prometheus.query(query)
            except AssertionError as error:
                wrong.append(f"{panel}: {error}")
                continue
            if not found and panel not in WITHOUT_DATA:
                empty.append((panel, query))
        if not empty or time.monotonic() > deadline:
            return len({panel for panel, _ in queries}), ([f"{panel}: {query}" for panel, query in empty], wrong)
        left = empty
        await asyncio.sleep(0.5)


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

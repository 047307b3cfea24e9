"""Dashboards are what Grafana's own types say they are: a key that Grafana would not know is an error here."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from npm import installed, program

pytestmark = pytest.mark.node

HERE = Path(__file__).parent
DASHBOARDS = Path(__file__).parents[2] / "dashboards"
NAMES = sorted(path.stem for path in DASHBOARDS.glob("*.json"))
RAW = "./node_modules/@grafana/schema/dist/types/raw"
KINDS = ("bargauge", "stat", "table", "timeseries")
WITH_STYLES = ("timeseries",)
"""Panels whose look of a series, `fieldConfig.defaults.custom`, has a type that can be imported."""

# JSON has the values of enums, not their names; and what is left out of options Grafana fills in.
TYPES = f"""
import type {{ AnnotationQuery, Dashboard }} from '{RAW}/dashboard/x/types.gen';
type J<T> = T extends string ? `${{T}}` : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? J<U>[] : T extends object ? {{ [K in keyof T]: J<T[K]> }} : T;
type P<T> = T extends (infer U)[] ? P<U>[] : T extends object ? {{ [K in keyof T]?: P<T[K]> }} : T;
// A query of Prometheus' stands beside what every annotation has; that type only knows queries of Grafana itself.
type Mark = J<AnnotationQuery> & {{ expr: string }};
type Board = Omit<J<Dashboard>, 'annotations'> & {{ annotations: {{ list: Mark[] }} }};
"""

Check = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="session")
def complaints() -> Check:
    """The TypeScript compiler's errors for a dashboard; none when it is valid."""
    node = program("node")
    folder = installed(HERE / "grafana" / "package.json", into="grafana-schema")

    def check(dashboard: dict[str, Any]) -> str:
        file = folder / f"{dashboard['uid']}.mts"
        file.write_text(_typed(dashboard))
        flags = ["--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
        done = subprocess.run(
            [node, "node_modules/typescript/bin/tsc", *flags, "--skipLibCheck", file.name],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert bool(done.returncode) == bool(done.stdout), done.stderr
        return done.stdout

    return check


def _typed(dashboard: dict[str, Any]) -> str:
    """The dashboard as a constant of its type, and every panel's options and style as constants of theirs."""
    lines = [TYPES]
    lines += [f"import type * as {kind} from '{RAW}/composable/{kind}/panelcfg/x/types.gen';" for kind in KINDS]
    lines.append(f"export const dashboard: Board = {json.dumps(dashboard)};")
    for panel in dashboard["panels"]:
        if (kind := panel["type"]) == "row":
            continue
        assert kind in KINDS, f"no type is known here for a panel {kind!r}"
        options = json.dumps(panel.get("options", {}))
        lines.append(f"export const options{panel['id']}: P<J<{kind}.Options>> = {options};")
        if kind in WITH_STYLES:
            style = json.dumps(panel["fieldConfig"]["defaults"]["custom"])
            lines.append(f"export const style{panel['id']}: P<J<{kind}.FieldConfig>> = {style};")
    return "\n".join(lines) + "\n"


def _read(name: str) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return dashboard


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_is_one_by_grafanas_own_types(name: str, complaints: Check) -> None:
    assert complaints(_read(name)) == ""


def _first(dashboard: dict[str, Any], kind: str) -> dict[str, Any]:
    panel: dict[str, Any] = next(panel for panel in dashboard["panels"] if panel["type"] == kind)
    return panel


MISTAKES: dict[str, Callable[[dict[str, Any]], object]] = {
    "refesh": lambda dashboard: dashboard.update(refesh=dashboard.pop("refresh")),
    "width": lambda dashboard: _first(dashboard, "table")["gridPos"].update(width=8),
    "graphMod": lambda dashboard: _first(dashboard, "stat")["options"].update(graphMod="area"),
    "dotted": lambda dashboard: _first(dashboard, "timeseries")["fieldConfig"]["defaults"]["custom"].update(
        thresholdsStyle={"mode": "dotted"}
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_misspelt_key_or_an_unknown_value_is_found(mistake: str, complaints: Check) -> None:
    dashboard = {**_read("overview"), "uid": f"mistake-{mistake}"}
    MISTAKES[mistake](dashboard)
    assert re.search(rf"['\"]{mistake}['\"]", complaints(dashboard))

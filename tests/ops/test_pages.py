"""Every page comes in time, and not before, whether Prometheus scrapes every 5 s or every minute."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from ops.page_cases import FAULT_S, PAGES, Page
from ops.test_alerts import ALERTS, promtool_agrees
from runwire.ops.rules import anchor
from runwire.ops.thresholds import Severity

SCRAPES_S: Final = (5, 60)


def test_every_page_has_a_fault() -> None:
    pages = {name for name, alert in ALERTS.items() if alert.severity is Severity.PAGE}
    assert pages <= {page.alert for page in PAGES}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
@pytest.mark.parametrize("scrape_s", SCRAPES_S)
@pytest.mark.parametrize("alert", sorted({page.alert for page in PAGES}))
def test_a_page_comes_in_time_whatever_the_scrape_interval(alert: str, scrape_s: int, tmp_path: Path) -> None:
    tests = [asked(page, scrape_s=scrape_s) for page in PAGES if page.alert == alert]
    promtool_agrees(tmp_path, tests, annotations=False, of={alert})


def asked(page: Page, *, scrape_s: int) -> dict[str, Any]:
    """The fault as a test of promtool's: all is silent at its beginning, and the page is there in time."""
    until_s = FAULT_S + page.by_s
    severity = ALERTS[page.alert].severity
    labels = {"severity": str(severity), "runbook": anchor(page.alert), **page.labels}
    samples = range(0, int(until_s) + scrape_s, scrape_s)
    return {
        "name": f"{page.alert} {page.when} every {scrape_s} s",
        "interval": f"{scrape_s}s",
        "input_series": [
            {"series": name, "values": " ".join(_noted(value(float(at))) for at in samples)}
            for name, value in page.series.items()
        ],
        "alert_rule_test": [
            *(
                {"eval_time": f"{FAULT_S - before_s:.0f}s", "alertname": page.alert, "exp_alerts": []}
                for before_s in (60, 45, 30, 15, 0)
            ),
            {"eval_time": f"{until_s:.0f}s", "alertname": page.alert, "exp_alerts": [{"exp_labels": labels}]},
        ],
    }


def _noted(value: float | None) -> str:
    return "_" if value is None else f"{value:.10g}"

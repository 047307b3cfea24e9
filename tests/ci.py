"""Names every skipped test at the end of a run; where `CI=true`, each of them is a failure."""

from __future__ import annotations

import os
from typing import Any

import pytest


def skips_fail() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In the process that reports: with xdist, the controller."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    if reporter.stats.get("skipped") and skips_fail() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    verdict = "CI=true: a skipped test is a failure" if skips_fail() else "not everything was tested"
    terminalreporter.section(f"{len(skipped)} skipped; {verdict}", red=skips_fail(), yellow=not skips_fail())
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")

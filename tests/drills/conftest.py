"""The campaign all drills of a session belong to, and its options."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drills import programs
from drills.campaign import BASELINE, Campaign
from drills.report import write_report


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("drills")
    group.addoption(
        "--without-rule",
        action="append",
        default=[],
        metavar="ALERT",
        help="leave this alert's rule out; its drill must fail",
    )
    group.addoption(
        "--drills-report", action="store_true", help="write rows of docs/drills.md when all drills went well"
    )


@pytest.fixture(scope="session")
def campaign(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_dsn: str
) -> Iterator[Campaign]:
    """Holds every drill that a collected test asks for."""
    if missing := programs.missing():
        pytest.skip(f"not installed: {', '.join(missing)}; scripts/system-programs.sh installs them")
    names = {mark.args[0] for item in request.session.items for mark in item.iter_markers("drill") if mark.args}
    held = Campaign(
        names,
        folder=tmp_path_factory.mktemp("drills"),
        admin_dsn=postgres_dsn,
        without=request.config.getoption("--without-rule", []),
    )
    yield held
    held.close()
    if request.config.getoption("--drills-report", False) and request.session.testsfailed == 0:
        write_report(held.outcomes(), held.baseline() if BASELINE in names else None)

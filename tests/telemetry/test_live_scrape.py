"""A running service exports well-formed metrics: all that are documented, and all that rules and dashboards query."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.command import started
from postgres import cloned_database
from telemetry.tables import code, table
from waiting import eventually

ROOT: Final = Path(__file__).parents[2]
LINTS: Final[frozenset[str]] = frozenset()
"""The complaints of `promtool check metrics` that are accepted. Give a reason for each."""
pytestmark = pytest.mark.crash


@pytest.fixture(scope="module")
def scraped(postgres_dsn: str) -> str:
    """A scrape of a service with every role, after its observer has looked."""
    return asyncio.run(_scraped(postgres_dsn))


async def _scraped(postgres_dsn: str) -> str:
    async with (
        cloned_database(postgres_dsn) as database,
        started("serve", "--port", "0", "--admin-port", "0", DATABASE_URL=database) as serving,
    ):
        said = await serving.logged("server_started")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{said['admin_port']}") as admin:

            async def looked() -> str | None:
                text = (await admin.get("/metrics")).text
                seen = re.search(r"^runwire_observer_last_success_timestamp_seconds (\S+)$", text, re.MULTILINE)
                return text if seen and float(seen[1]) > 0 else None

            text = await eventually(looked, within_s=30)
        serving.process.send_signal(signal.SIGTERM)
    assert text is not None
    return text


def exported(scrape: str) -> dict[str, str]:
    """The type of each of our metrics, counters with `_total` as they are asked for."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(scrape)
        if family.name.startswith("runwire_")
    }


def test_it_exports_what_is_documented_and_nothing_else(scraped: str) -> None:
    documented = {code(row[0]): row[1] for row in table("Metrics") if row[5] != "canary"}
    assert exported(scraped) == documented


def test_rules_and_dashboards_ask_for_nothing_that_is_documented_and_not_there(scraped: str) -> None:
    asked = " ".join(
        path.read_text() for path in [*(ROOT / "alerts").glob("*rules.yaml"), *(ROOT / "dashboards").glob("*.json")]
    )
    asked = re.sub(r"\b[a-z]+:[a-z0-9_:]+", "", asked)  # recorded from others
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\brunwire_[a-z0-9_]+\b", asked)}
    names -= {code(row[0]) for row in table("Metrics") if row[5] == "canary"}
    assert len(names) > 30
    assert names - set(exported(scraped)) == set()


def test_it_exports_the_settings_that_limits_follow(scraped: str) -> None:
    assert "\nrunwire_sse_heartbeat_seconds 15.0\n" in scraped
    assert "\nrunwire_archive_after_seconds 0.0\n" in scraped, "this one has no archive"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_finds_no_fault_with_it(scraped: str) -> None:
    command = ["promtool", "check", "metrics"]
    checked = subprocess.run(command, input=scraped, capture_output=True, text=True, check=False)
    assert set((checked.stdout + checked.stderr).splitlines()) <= LINTS
    assert (checked.returncode == 0) == (not LINTS)

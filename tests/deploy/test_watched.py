"""The services of the stack at work: the very commands and files of docker-compose.yml, without an engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from crash.fleet import free_port
from deploy.stack import Stack
from deploy.watched import Watched, watched
from drills.collector import Collector
from drills.programs import missing
from waiting import eventually

STACK = Stack()
WITHIN_S = 60
USUAL_INTERVAL_S = 5
pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}")


@pytest.mark.timeout(300)
async def test_prometheus_scrapes_every_role_judges_by_every_rule_and_leads_to_traces_and_a_page(
    database: str, tmp_path: Path
) -> None:
    collector = Collector()
    await collector.start()
    try:
        async with watched(STACK, tmp_path, database=database, spans_to=collector.url) as stack:
            await eventually(lambda: every_target_is_up(stack), within_s=WITHIN_S)
            await eventually(lambda: every_rule_is_judged(stack), within_s=WITHIN_S)
            await eventually(lambda: the_seed_shows_in_the_published_lag(stack), within_s=WITHIN_S)
            await eventually(lambda: a_lag_leads_to_its_trace(stack), within_s=WITHIN_S)
            await eventually(lambda: the_pager_hears_the_watchdog(stack), within_s=WITHIN_S)
            await nobody_but_the_watchdog_fires(stack)
            probes_find_them_well(stack, tmp_path)
    finally:
        await collector.stop()


async def every_target_is_up(stack: Watched) -> bool:
    targets = (await stack.ask("/api/v1/targets", state="active"))["activeTargets"]
    ups = {one["labels"].get("role", one["labels"]["job"]): one["health"] for one in targets}
    assert ups == dict.fromkeys([*STACK.roles.values(), "prometheus", "alertmanager"], "up")
    return True


async def every_rule_is_judged(stack: Watched) -> bool:
    """But for those of groups that take their time: they are loaded, and nothing is wrong with them yet."""
    groups = (await stack.ask("/api/v1/rules"))["groups"]
    usual = {group["name"] for group in groups if group["interval"] <= USUAL_INTERVAL_S}
    assert "runwire-pipeline" in usual
    judged = {
        rule["name"]: "ok" if group["name"] not in usual and rule["health"] == "unknown" else rule["health"]
        for group in groups
        for rule in group["rules"]
    }
    written = {
        rule.get("alert") or rule["record"]
        for name in ("recording-rules.yaml", "alert-rules.yaml")
        for group in yaml.safe_load((STACK.root / "alerts" / name).read_text())["groups"]
        for rule in group["rules"]
    }
    assert judged == dict.fromkeys(written, "ok")
    return True


async def the_seed_shows_in_the_published_lag(stack: Watched) -> bool:
    found = await stack.ask("/api/v1/query", query="job:runwire_publish_lag_seconds:p95_rate1m > 0")
    return bool(found["result"])


async def a_lag_leads_to_its_trace(stack: Watched) -> bool:
    """By the label that the provisioned datasource makes a link of."""
    (link,) = STACK.datasources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    now = float((await stack.ask("/api/v1/query", query="time()"))["result"][1])
    found: list[dict[str, Any]] = await stack.ask(
        "/api/v1/query_exemplars",
        query="runwire_publish_lag_seconds_bucket",
        start=str(now - 600),
        end=str(now + 60),
    )
    return any(len(one["labels"][link["name"]]) == 32 for series in found for one in series["exemplars"])


def the_pager_hears_the_watchdog(stack: Watched) -> bool:
    lines = stack.pager_log.read_text().splitlines()
    return any("watchdog" in line and "FIRING" in line and "Watchdog: Always fires" in line for line in lines)


async def nobody_but_the_watchdog_fires(stack: Watched) -> None:
    alerts = (await stack.ask("/api/v1/alerts"))["alerts"]
    assert {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"} == {"Watchdog"}


def probes_find_them_well(stack: Watched, folder: Path) -> None:
    """Healthchecks, as the containers have them: Alertmanager's; the seed's, also where no run has ended yet."""
    _, *asked = STACK.services["alertmanager"]["healthcheck"]["test"]
    there = [word.replace("http://127.0.0.1:9093", stack.alertmanager) for word in asked]
    nowhere = [word.replace("http://127.0.0.1:9093", f"http://127.0.0.1:{free_port()}") for word in asked]
    assert subprocess.run(there, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert subprocess.run(nowhere, capture_output=True, check=False).returncode != 0
    seed = [sys.executable, str(STACK.root / "deploy" / "seed.py"), "--check"]
    assert subprocess.run(seed, env={"TMPDIR": str(folder)}, check=False).returncode == 0
    (folder / "new").mkdir()
    assert subprocess.run(seed, env={"TMPDIR": str(folder / "new")}, check=False).returncode == 1


async def test_the_seed_outlives_a_service_that_is_away_and_ends_when_told_to(tmp_path: Path) -> None:
    script = STACK.root / "deploy" / "seed.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), "--every", "0.1",
        env={"RUNWIRE_URL": f"http://127.0.0.1:{free_port()}", "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        assert b"ServerUnreachable" in await process.stdout.readline()
    assert process.returncode is None
    process.terminate()
    async with asyncio.timeout(WITHIN_S):
        await process.communicate()
    assert process.returncode == 0


async def test_the_pager_refuses_what_is_no_message_and_says_whether_it_listens() -> None:
    command, port = [str(STACK.root / "deploy" / "pager.py"), "--port"], str(free_port())

    async def listens() -> bool:
        probe = await asyncio.create_subprocess_exec(sys.executable, *command, port, "--check")
        return await probe.wait() == 0

    assert not await listens()
    process = await asyncio.create_subprocess_exec(sys.executable, *command, port, stdout=subprocess.PIPE)
    try:
        await eventually(listens, within_s=WITHIN_S)
        alert = {
            "status": "resolved",
            "labels": {"alertname": "PublisherDown"},
            "annotations": {"summary": "It is back"},
            "startsAt": "2026-01-01T00:00:00Z",
            "endsAt": "2026-01-01T00:01:00.5Z",
        }
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            for message, status in (({"alerts": [{"labels": 1}]}, 400), ("none", 400), ({"alerts": [alert]}, 200)):
                async with session.post("/page", json=message) as answer:
                    assert answer.status == status, message
    finally:
        process.terminate()
        async with asyncio.timeout(WITHIN_S):
            told, _ = await process.communicate()
    assert process.returncode == 0
    assert told.decode() == "2026-01-01T00:01:00Z  page      RESOLVED  PublisherDown: It is back\n"

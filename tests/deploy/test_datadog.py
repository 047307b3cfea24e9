"""The data that the Datadog Agent would send: its own check, with the configuration of deploy/, against a service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import runwire
from crash.fleet import Member, free_port
from scripts import script
from telemetry.tables import code, table

ROOT = Path(__file__).parents[2]
AGENT = Path(__file__).parent / "agent.py"
DISTRIBUTIONS = {code(row[0]) for row in table("Metrics") if row[1] == "histogram" and row[5] != "canary"}

Look = Callable[[], Awaitable[dict[str, Any]]]


render_datadog = script("render_datadog")


def test_the_configuration_is_what_the_documentation_says_now() -> None:
    assert render_datadog.CONF.read_text() == render_datadog.text(), "run `make docs`"


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[tuple[Member, int]]:
    """`runwire serve` with all roles, and its admin port."""
    admin_port = free_port()
    environment = {"RUNWIRE_DATABASE_URL": database, "RUNWIRE_OBSERVE_S": "0.2"}
    process = Member("api", logs=tmp_path, environment=environment, arguments=["--admin-port", str(admin_port)])
    await process.start(within_s=60)
    try:
        yield process, admin_port
    finally:
        process.discard()


@pytest.fixture
async def look(service: tuple[Member, int], datadog_python: Path) -> AsyncIterator[Look]:
    """The data that a check sends on each run."""
    agent = await asyncio.create_subprocess_exec(
        str(datadog_python),
        str(AGENT),
        str(render_datadog.CONF),
        f"http://127.0.0.1:{service[1]}/metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )

    async def ask() -> dict[str, Any]:
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(json.dumps(sorted(map(agent_name, DISTRIBUTIONS))).encode() + b"\n")
        async with asyncio.timeout(60):
            answer: dict[str, Any] = json.loads(await agent.stdout.readline())
        assert answer["error"] == ""
        return answer

    try:
        yield ask
    finally:
        agent.kill()
        await agent.wait()


async def golden(service: Member) -> None:
    async with runwire.Client(service.url) as client:
        run = await client.start("golden")
        assert [event.seq async for event in client.stream(run)] == list(range(1, 14))


async def test_the_agent_sends_every_documented_metric_as_what_it_is(service: tuple[Member, int], look: Look) -> None:
    await golden(service[0])
    first = await look()
    await golden(service[0])
    second = await look()

    assert first["healthy"] == second["healthy"] == [0]
    missing = set(names_of(second)) ^ documented()
    assert missing == set()
    kinds = {name: {row[0] for row in rows} for name, rows in second["metrics"].items()}
    for name, wanted in render_datadog.documented():
        sent_as = agent_name(name)
        if wanted == "counter":
            assert kinds[f"{sent_as}.count"] == {"monotonic_count"}, name
        elif wanted == "gauge":
            assert kinds[sent_as] == {"gauge"}, name
        else:
            assert kinds[f"{sent_as}.sum"] == kinds[f"{sent_as}.count"] == {"monotonic_count"}, name

    # The Agent sends what has been added since it last looked: a run's events, each once.
    def appended(seen: dict[str, Any]) -> float:
        return float(sum(row[1] for row in seen["metrics"]["runwire.events_appended.count"]))

    assert (appended(first), appended(second)) == (13, 26)
    assert {tag for row in second["metrics"]["runwire.events_appended.count"] for tag in row[2]} >= {"type:RunStarted"}


async def test_buckets_of_histograms_become_distributions(service: tuple[Member, int], look: Look) -> None:
    await look()
    await golden(service[0])
    seen = await look()
    assert set(seen["buckets"]) == {agent_name(name) for name in DISTRIBUTIONS}
    lag = seen["buckets"]["runwire.publish_lag_seconds"]
    assert sum(row[0] for row in lag) == 13
    assert [0.05, 0.1] in [row[1:3] for row in lag]


async def test_no_count_or_gauge_is_a_moment(service: tuple[Member, int], look: Look) -> None:
    """Moments would be sent as counts of a thousand million: `_created` is off, and of others the age is sent."""
    await golden(service[0])
    seen = await look()
    assert not [name for name in names_of(seen) if "created" in name]
    moments = {name for name, rows in seen["metrics"].items() if any(row[1] > 1e9 for row in rows)}
    assert moments <= {"runwire.process_start_time_seconds"}
    (age,) = seen["metrics"]["runwire.observer_last_success_age_seconds"]
    assert 0 <= age[1] < 60


def agent_name(name: str) -> str:
    (configured,) = render_datadog.metric(name).values()
    return f"runwire.{configured if isinstance(configured, str) else configured['name']}"


def documented() -> set[str]:
    return {agent_name(name) for name, _ in render_datadog.documented()} | {
        f"runwire.{name}" for name in render_datadog.PROCESS
    }


def names_of(seen: dict[str, Any]) -> set[str]:
    """Names of what was sent, as configured."""
    return {name.removesuffix(".count").removesuffix(".sum").removesuffix(".total") for name in seen["metrics"]} - {
        "runwire.telemetry.payload.size"
    }

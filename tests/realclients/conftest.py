"""A service to be killed and started again, and the programs of other people that follow its streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.fleet import QUICK_TAKEOVER, Member
from crash.wire import posted, sent
from npm import installed, program

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Service:
    """`runwire serve` with all roles."""

    process: Member

    def stream_url(self, run_id: str) -> str:
        return f"{self.process.url}/api/agents/runs/{run_id}/stream"

    async def start_run(self, run_id: str, *, delay_ms: int) -> None:
        body = {"runId": run_id, "input": {"delay_ms": delay_ms}}
        status, answer = await posted(self.process.port, "/api/agents/runs", body)
        assert status == 202, answer

    async def published(self, run_id: str) -> int:
        """How many of the run's events clients may see."""
        request = f"GET /api/agents/runs/{run_id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        async with sent(self.process.port, request) as (head, reader):
            return int(json.loads(await reader.readexactly(int(head.headers["content-length"])))["publishedSeq"])

    async def restart(self, how: str) -> None:
        """Killed, or told to go, and started again at the same port."""
        if how == "killed":
            self.process.kill()
        else:
            assert await self.process.terminate() == 0
        await self.process.start()


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Service]:
    environment = {**QUICK_TAKEOVER, "RUNWIRE_DATABASE_URL": database}
    process = Member("api-and-all", logs=tmp_path, environment=environment)
    await process.start()
    try:
        yield Service(process)
        errors = [line for line in process.lines() if line.get("level") in (None, "error")]
        assert errors == []
    finally:
        process.discard()


@pytest.fixture
def chromium() -> str:
    return program("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def curl() -> str:
    return program("curl")


@pytest.fixture(scope="session")
def follow_script() -> tuple[str, Path]:
    """Node.js, and follow.mjs where the packages it imports are installed; once for all who run tests here."""
    node = program("node")
    return node, installed(HERE / "package.json", into="node", also=(HERE / "follow.mjs",)) / "follow.mjs"

"""A service to be killed and started again, and the programs of other people that follow its streams."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from crash.fleet import QUICK_TAKEOVER, Member
from crash.wire import posted, sent

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "node"


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
        request = f"GET /api/agents/runs/{run_id} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
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


def program(name: str, *aliases: str) -> str:
    """The path of a program that the system has, under one of its names; or a skipped test."""
    for known_as in (name, *aliases):
        found = shutil.which(known_as)
        if found is not None:
            return found
    pytest.skip(f"needs {name}")


@pytest.fixture
def chromium() -> str:
    return program("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def curl() -> str:
    return program("curl")


@pytest.fixture(scope="session")
def follow_script() -> tuple[str, Path]:
    """Node.js, and follow.mjs where the packages it imports are installed; once for all who run tests here."""
    node, npm = program("node"), program("npm")
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "install.lock"):
        shutil.copy(HERE / "package.json", CACHE)
        shutil.copy(HERE / "follow.mjs", CACHE)
        if any(_installed(package) != version for package, version in wanted.items()):
            done = subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"],
                cwd=CACHE,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return node, CACHE / "follow.mjs"


def _installed(package: str) -> str | None:
    manifest = CACHE / "node_modules" / package / "package.json"
    if not manifest.exists():
        return None
    version: str = json.loads(manifest.read_text())["version"]
    return version

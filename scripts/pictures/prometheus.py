"""A Prometheus of our own as a child process, and its answers as the HTTP API gives them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from crash.fleet import free_port
from waiting import eventually

SCRAPE_S: Final = 2


class Prometheus:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def get(self, path: str, **params: str) -> Any:
        """The `data` of an answer. Raises RuntimeError with what Prometheus says is wrong."""
        async with self._session.get(f"{self.url}/api/v1/{path}", params=params) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise RuntimeError(f"{path} {params}: {answer['error']}")
        return answer["data"]

    async def value(self, expression: str) -> float | None:
        """The largest value an expression has now; None without one."""
        found = (await self.get("query", query=expression))["result"]
        return max((float(one["value"][1]) for one in found), default=None)

    async def ready(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def prometheus(
    folder: Path,
    session: aiohttp.ClientSession,
    *,
    targets: Mapping[str, tuple[int, str]] | None = None,
    rules: Mapping[str, Any] | None = None,
) -> AsyncIterator[Prometheus]:
    """Over the data in `folder`, which it makes or goes on with. `targets`: port and role by the instance's name."""
    program = shutil.which("prometheus")
    if program is None:
        raise SystemExit("prometheus is missing: scripts/system-programs.sh installs it")
    folder.mkdir(parents=True, exist_ok=True)
    groups = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name, "role": role}}
        for name, (port, role) in (targets or {}).items()
    ]
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "runwire", "static_configs": groups}] if groups else [],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    (folder / "rules.yml").write_text(yaml.safe_dump(dict(rules or {"groups": []})))
    port = free_port()
    command = [
        program,
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--rules.alert.for-grace-period=0s",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # returns at once; our own command
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        made = Prometheus(f"http://127.0.0.1:{port}", session)
        await eventually(made.ready, within_s=60)
        yield made
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)

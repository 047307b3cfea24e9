"""A service of several processes, used and troubled for some minutes, as Prometheus saw it; kept to be drawn from."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import aiohttp

from crash.fleet import Member, free_port
from drills.collector import Collector
from pictures.load import users
from pictures.prometheus import SCRAPE_S, prometheus
from pictures.rules import shortened
from pictures.story import SHOWN_S, Scene, told
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from waiting import eventually

ROOT: Final = Path(__file__).parents[2]
PROCESSES: Final = {
    "api-0": "api",
    "api-1": "api",
    "worker-0": "worker",
    "worker-1": "worker",
    "publisher-0": "publisher",
    "observer-0": "observer",
}


async def record(folder: Path) -> None:
    """Leaves in `folder` what Prometheus has, and `shown.json` with the range to show, in seconds of the epoch."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runwire-pictures-")))
        postgres = EmbeddedPostgres(EmbeddedOptions(home / "postgres"))
        await postgres.start()
        stack.push_async_callback(postgres.stop)
        collector = Collector()
        await collector.start()
        stack.push_async_callback(collector.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        ports = {name: free_port() for name in PROCESSES}
        members = {
            name: Member(
                name,
                logs=folder,
                environment={
                    "RUNWIRE_BUS": "postgres",
                    "RUNWIRE_AGENTS": "pictures.agents:triage,pictures.agents:report",
                    "RUNWIRE_DATABASE_URL": postgres.dsn,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                    "RUNWIRE_TRACE_SAMPLE_RATIO": "0.3",
                },
                arguments=["--admin-port", str(ports[name]), "--role", role],
            )
            for name, role in PROCESSES.items()
        }
        for member in members.values():
            stack.callback(member.discard)
            await member.start(within_s=60)
        targets = {name: (ports[name], role) for name, role in PROCESSES.items()}
        watching = await stack.enter_async_context(
            prometheus(folder / "prometheus", session, targets=targets, rules=shortened(ROOT))
        )

        async def all_up() -> bool:
            return bool(await watching.value("count(up == 1)") == len(PROCESSES))

        await eventually(all_up, within_s=60)
        async with users([members["api-0"].url, members["api-1"].url], seed=17):
            await told(Scene(postgres.dsn, members, collector, session))
            end = time.time() // SCRAPE_S * SCRAPE_S
        await asyncio.sleep(SCRAPE_S)
    (folder / "shown.json").write_text(json.dumps({"start": end - SHOWN_S, "end": end}))

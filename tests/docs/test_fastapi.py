"""The application of the page on FastAPI, as printed, beside a service that knows the key which the page makes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from docs.pages import DOCS, blocks
from runwire.assembly import Assembly
from runwire.client import Client
from runwire.settings import Settings
from waiting import eventually

PAGE = DOCS / "fastapi.md"
MODULES = ("trip", "shop", "relay")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, the agent of the tutorial without its pauses, and a key."""
    for page in (PAGE, DOCS / "tutorial.md"):
        for block in blocks(page, "python"):
            (tmp_path / block.title).write_text(block.text.replace("asyncio.sleep(1)", "asyncio.sleep(0)"))
    typed = [line for block in blocks(PAGE, "sh") for line in block.text.splitlines()]
    (creation,) = [line for line in typed if line.startswith("runwire keys create")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", creation], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
async def service(database: str, folder: Path) -> AsyncIterator[Assembly]:
    settings = Settings(
        database_url=database,
        bus="memory",
        port=0,
        admin_port=0,
        drain_s=2.0,
        agents=("trip:planner",),
        keys_file=folder / "keys.txt",
    )
    async with Assembly(settings) as assembled:
        yield assembled


@pytest.fixture
async def shop(service: Assembly, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """The application, as uvicorn would serve it."""
    monkeypatch.setenv("RUNWIRE_URL", service.url)
    monkeypatch.setenv("RUNWIRE_TOKEN", (folder / "key.txt").read_text().strip())
    app = importlib.import_module("shop").app
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as http,
    ):
        yield http


async def planned(shop: httpx.AsyncClient) -> str:
    answers = [await shop.post("/trips", json={"city": "Porto", "order": "17"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    first, second = (answer.json()["run"] for answer in answers)
    assert first == second, "the same order, sent again"
    return str(first)


async def test_a_trip_is_planned_approved_and_followed_with_a_ticket(
    shop: httpx.AsyncClient, service: Assembly
) -> None:
    run = await planned(shop)
    assert (await shop.post(f"/trips/{run}/approval")).status_code == 202
    ticket = (await shop.post(f"/trips/{run}/ticket")).json()["ticket"]
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as browser:
        stream = f"/api/agents/runs/{run}/stream"
        followed = await browser.get(stream, params={"fromSeq": "0", "ticket": ticket})
        assert followed.text.count("\ndata: ") == 11 + 1
        assert '"state":"finished"' in followed.text
        assert (await browser.get(stream)).status_code == 401
    assert (await shop.post("/trips/nobody/ticket")).status_code == 404


async def test_the_relay_passes_each_event_on(shop: httpx.AsyncClient, service: Assembly, folder: Path) -> None:
    run = await planned(shop)
    relay: Any = importlib.import_module("relay")
    async with Client(service.url, token=(folder / "key.txt").read_text().strip()) as client:

        async def waits() -> bool:
            return (await client.run(run)).waiting_for == "approved"

        await eventually(waits)
        await client.signal(run, "approved")
        passed = [line async for line in relay.lines(client, run, 8)]
    assert passed[1:] == ["id: 10\ndata: NodeFinished Book\n\n", "id: 11\ndata: RunFinished \n\n"]

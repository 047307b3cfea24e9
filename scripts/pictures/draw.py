"""Dashboards as PNGs: Grafana's panel components in a headless browser, given what Prometheus answered."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from npm import installed
from pictures.answers import STEP_S, Shown, asked
from pictures.prometheus import prometheus
from pictures.rules import SHORTER
from realclients.chromium import Page, page_in
from runwire.ops import dashboards
from runwire.ops.thresholds import load
from waiting import eventually

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
SOURCES: Final = HERE / "draw"
PICTURES: Final = ROOT / "docs" / "img"
WIDTH: Final = 1600


async def draw(recorded: Path, *, names: set[str] | None = None) -> list[Path]:
    """A PNG in docs/img for each dashboard, as it is in the source now. Returns their paths."""
    given = json.loads((recorded / "shown.json").read_text())
    shown = Shown(given["start"], given["end"])
    boards = {name: json.loads(text) for name, text in dashboards.rendered(load(ROOT)).items()}
    site = await asyncio.to_thread(_bundled)
    (site / "data").mkdir(exist_ok=True)
    async with aiohttp.ClientSession() as session, prometheus(recorded / "prometheus", session) as answering:
        for name, board in boards.items():
            data = await asked(board, answering, shown)
            data |= {"shown": given, "step": STEP_S, "footer": _footer(shown)}
            (site / "data" / f"{name}.json").write_text(json.dumps({"board": board, "data": data}))
    PICTURES.mkdir(exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory(prefix="runwire-browser-") as profile:
        async with _served(site) as url, page_in(_program("chromium"), profile=Path(profile)) as page:
            for name in boards:
                if names and name not in names:
                    continue
                path = PICTURES / f"{name}.png"
                path.write_bytes(await _shot(page, f"{url}/page.html?{name}#{name}"))
                await asyncio.to_thread(squeezed, path)
                made.append(path)
    return made


def _footer(shown: Shown) -> str:
    day = datetime.fromtimestamp(shown.end, UTC).date().isoformat()
    return (
        f"Drawn by Grafana's panel components (@grafana/ui) from live Prometheus data, not by a Grafana server. {day}. "
        "The service is real and so are its troubles; limits are those of production, the windows of rules are "
        f"{SHORTER:g} times shorter."
    )


def _bundled() -> Path:
    """The folder to serve: the page with all it needs."""
    manifest = SOURCES / "package.json"
    sources = tuple(path for path in SOURCES.iterdir() if path != manifest)
    folder = installed(manifest, into="pictures/node", also=sources, options=("--legacy-peer-deps",), within_s=900)
    node = _program("node")
    site = folder / "site"
    for command in ([node, "node_modules/esbuild/install.js"], [node, "bundle.mjs", str(site)]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # ours
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    shutil.copy(SOURCES / "page.html", site)
    return site


class _served:  # noqa: N801  # used as a function
    """The site's address inside; Grafana's icons are where its components look for them."""

    def __init__(self, site: Path) -> None:
        app = web.Application()
        icons = site.parent / "node_modules" / "@grafana" / "ui" / "dist" / "public" / "img" / "icons"
        app.router.add_static("/public/build/img/icons", icons)
        app.router.add_static("/", site)
        self._runner = web.AppRunner(app, access_log=None)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        listener = web.TCPSite(self._runner, "127.0.0.1", 0)
        await listener.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def _shot(page: Page, url: str) -> bytes:
    await page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=900, deviceScaleFactor=1, mobile=False)
    await page.open(url)

    async def settled() -> Any:
        return await page.evaluate("window.failed || window.drawn || 0")

    height = await eventually(settled, within_s=60)
    if not isinstance(height, int):
        raise SystemExit(f"{url}: {height}")
    await page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)
    whole = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    answer = await page.call("Page.captureScreenshot", format="png", clip=whole, captureBeyondViewport=True)
    return base64.b64decode(answer["data"])


def squeezed(path: Path) -> None:
    command = [_program("pngquant"), "--force", "--skip-if-larger", "--speed=1", "--strip", "--output", str(path)]
    done = subprocess.run([*command, "256", str(path)], check=False)  # ours
    if done.returncode not in (0, 98):  # 98: it would be larger
        raise SystemExit(f"pngquant ended with {done.returncode}")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is missing: `sh scripts/system-programs.sh {name}` installs it")
    return found

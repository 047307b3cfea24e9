"""The tutorial, done as a reader does it: its files saved, its commands typed, its page looked at.

Only the ports differ. `pip install` finds runwire and all that it needs installed already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crash.fleet import free_port
from docs.pages import DOCS, ROOT, Block, blocks
from npm import program
from realclients.chromium import Page, page_in
from waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.crash, pytest.mark.timeout(300)]
TUTORIAL = DOCS / "tutorial.md"
WITHIN_S = 60.0
FILES = {"python": "trip.py", "html": "screen/index.html"}
PORTS = ("8080", "9464", "8000")


class Terminal:
    """A shell that keeps its folder, its variables and its jobs from one command to the next."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._typed = 0

    async def type(self, commands: str) -> str:
        """The output of the commands, each of which has to succeed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._typed += 1
        done = f"done-{self._typed}"
        self._process.stdin.write(f"{commands}\necho; echo {done}\n".encode())
        lines: list[str] = []
        async with asyncio.timeout(WITHIN_S):
            while (line := (await self._process.stdout.readline()).decode()).strip() != done:
                assert line, "".join(lines)  # `set -e` ends the shell at the first command that fails
                lines.append(line)
        return "".join(lines)


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("RUNWIRE_", "DATABASE_", "OTEL_", "COVERAGE_"))
    }
    installed = os.pathsep.join([str(ROOT / "src"), *(path for path in sys.path if path.endswith("site-packages"))])
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-eu", "-o", "pipefail"),
        cwd=tmp_path,
        env=inherited
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        | {"PYTHONPATH": installed, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        | {"RUNWIRE_PORT": str(free_port()), "RUNWIRE_ADMIN_PORT": str(free_port())},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield Terminal(shell)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        await shell.wait()


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    chromium = program("chromium", "chromium-browser", "google-chrome")
    async with page_in(chromium, profile=tmp_path / "profile") as page:
        yield page


async def shows(page: Page, text: str) -> None:
    async def shown() -> bool:
        said = await page.evaluate("document.body.innerText")
        assert text in said, said
        return True

    await eventually(shown, within_s=WITHIN_S)


async def items(page: Page) -> list[str]:
    """The events that the screen shows."""
    shown: list[str] = await page.evaluate("[...document.querySelectorAll('li')].map(item => item.textContent.trim())")
    return shown


async def pressed(page: Page, button: str) -> None:
    await page.evaluate(f"document.querySelector('{button}').click()")


async def test_each_step_does_what_the_page_says(terminal: Terminal, page: Page, tmp_path: Path) -> None:
    steps = blocks(TUTORIAL, "sh", "python", "html")
    ports = {"8080": await terminal.type("echo $RUNWIRE_PORT"), "9464": await terminal.type("echo $RUNWIRE_ADMIN_PORT")}
    ports = {printed: actual.strip() for printed, actual in ports.items()} | {"8000": str(free_port())}
    await terminal.type(f"export RUNWIRE_URL=http://127.0.0.1:{ports['8080']}")

    async def done(step: Block) -> str:
        text = re.sub("|".join(PORTS), lambda port: ports[port[0]], step.text)
        if step.language == "sh":
            return await terminal.type(text)
        file = tmp_path / "tour" / FILES[step.language]
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return ""

    assert [step.language for step in steps] == ["sh", "python", "sh", "sh", "html", "sh", "sh", "sh", "sh"]
    install, agent, serve, run, screen, serve_screen, kill, serve_again, stop = steps
    for step in (install, agent, serve):
        await done(step)

    (timeline,) = [block.text for block in blocks(TUTORIAL, "") if "run started" in block.text]
    assert words_of(await done(run))[-6:] == words_of(timeline)

    await done(screen)
    await done(serve_screen)
    for _ in range(5):  # on a busy machine the node may end before the kill
        await page.open("about:blank")
        await page.open(f"http://127.0.0.1:{ports['8000']}/")
        await pressed(page, "form button")
        await shows(page, "DebugTrace search.rail")
        await done(kill)
        in_search = "NodeFinished Search" not in await items(page)
        await done(serve_again)
        if in_search:
            break
    await shows(page, "DebugTrace orchestrator.resumed")
    await shows(page, "NodeFinished Compare")
    await pressed(page, "#approve")
    await shows(page, "finished: Porto by air")
    seen = await items(page)
    assert (seen[0], seen[-1], seen.count("NodeFinished Book")) == ("RunStarted", "RunFinished", 1)
    await page.reload()
    await shows(page, "finished: Porto by air")
    assert await items(page) == seen
    await done(stop)


def words_of(timeline: str) -> list[list[str]]:
    """The lines of a timeline without their times."""
    lines = [re.sub(r"\d+(\.\d+)? m?s\b", "", line).split() for line in timeline.splitlines()]
    return [line for line in lines if line]

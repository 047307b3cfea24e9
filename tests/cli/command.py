"""Running commands: in this process, which is quick, or as real ones, where signals and ports matter."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from logging_state import logging_as_it_was
from runwire.cli import run_command
from tied import tied


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The output as JSON, one value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def ran(capsys: pytest.CaptureFixture[str], *args: str) -> Result:
    """The output and exit code of a command."""
    capsys.readouterr()
    with logging_as_it_was():  # a command has its process for itself
        code = run_command(args)
    printed = capsys.readouterr()
    return Result(int(code), printed.out, printed.err)


async def ran_beside(capsys: pytest.CaptureFixture[str], *args: str) -> Result:
    """The same, while this loop goes on serving."""
    return await asyncio.to_thread(ran, capsys, *args)


@dataclass(frozen=True, slots=True)
class Started:
    """A real process of the command."""

    process: asyncio.subprocess.Process

    async def line(self, *, within_s: float = 60) -> str:
        """Its next line on stdout."""
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), within_s)).decode()

    async def logged(self, event: str, *, within_s: float = 60) -> dict[str, Any]:
        """Its next line on stdout that logs the event; what it logs before is read over."""
        async with asyncio.timeout(within_s):
            while True:
                line: dict[str, Any] = json.loads(await self.line(within_s=within_s))
                if line.get("event") == event:
                    return line

    async def err_line(self, *, within_s: float = 60) -> str:
        assert self.process.stderr is not None
        return (await asyncio.wait_for(self.process.stderr.readline(), within_s)).decode()

    async def ended(self, *, within_s: float = 60) -> Result:
        """The rest of its output, and its exit code."""
        out, err = await asyncio.wait_for(self.process.communicate(), within_s)
        assert self.process.returncode is not None
        return Result(self.process.returncode, out.decode(), err.decode())


def bare_environment() -> dict[str, str]:
    """This process's environment without settings of runwire."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RUNWIRE_", "DATABASE_"))}


@asynccontextmanager
async def started(*args: str, stdout: Any = asyncio.subprocess.PIPE, **environment: str) -> AsyncIterator[Started]:
    """`python -m runwire` with these arguments, in an environment without settings but these."""
    process = await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-m", "runwire", *args]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env={**bare_environment(), **environment},
    )
    try:
        yield Started(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

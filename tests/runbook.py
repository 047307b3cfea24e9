"""The runbook's steps, run byte for byte as they are printed: only its own variables differ."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from docs.pages import RUNBOOK, blocks

STEPS: Final = {block.title: block.text for block in blocks(RUNBOOK, "sql")}
"""The runbook's statements by title."""
COMMANDS: Final = {block.title: block.text for block in blocks(RUNBOOK, "sh") if block.title}
LOOK, CHANGE = "a shell that only looks", "a shell that changes data"
USUAL: Final = {"RUN_ID": "", "PROGRAM": "", "OLDER": "5 seconds", "PARTITION": "run_events_20260101", "LOOKER": ""}
WITHIN_S: Final = 60.0


class StepFailed(AssertionError):
    """A step of the runbook failed; its text is what the command said."""


def interpolated(text: str, **variables: str) -> str:
    """The statement as psql sends it, for a driver that knows no variables."""
    found = USUAL | variables

    def quoted(match: re.Match[str]) -> str:
        quote, value = match[1], found[match[2]]
        return quote + value.replace(quote, 2 * quote) + quote

    return re.sub(r""":(['"])([A-Z_]+)\1""", quoted, text)


async def done(title: str, *, database: str, **variables: str) -> str:
    """The output of the statement of that title, in the shell that the runbook gives for it, as the user of `database`.

    Raises StepFailed.
    """
    shell = CHANGE if title.startswith("changes data") else LOOK
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        COMMANDS[shell],
        env={**os.environ, **USUAL, **variables, "LOOK_URL": database, "DATABASE_URL": database},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, errors = await asyncio.wait_for(process.communicate(STEPS[title].encode()), WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise StepFailed(f"{title}: {errors.decode()}")
    return said.decode()


@asynccontextmanager
async def looker(database: str) -> AsyncIterator[str]:
    """The URL for a role that only looks, made as the runbook says by the user of `database`, an administrator."""
    name = f"looks_{uuid.uuid4().hex[:10]}"
    administrator = await asyncpg.connect(database)
    try:
        await done("changes data: makes a role that only looks", database=database, LOOKER=name)
        try:
            await done("changes data: lets that role look", database=database, LOOKER=name)
            await administrator.execute(f"ALTER ROLE {name} PASSWORD 'x'")
            parts = urlsplit(database)
            yield urlunsplit(parts._replace(netloc=f"{name}:x@{parts.netloc.rpartition('@')[2]}"))
        finally:
            await administrator.execute(f"DROP OWNED BY {name}")
            await administrator.execute(f"DROP ROLE {name}")
    finally:
        await administrator.close()

"""An agent that writes three parts at once, and an artifact, for tests that kill its workers.

Its bytes follow from the run, the part and the attempt: a test knows them, and sees when two attempts are mixed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from runwire import END, Agent, Context, NodeFailed

PARTS: Final = {"answer": "text/markdown", "notes": "text/plain", "data": "application/octet-stream"}
LARGE: Final = 300_000
"""Bytes, more than PostgreSQL keeps of one artifact."""
_WORDS: Final = ("one ", "Grüße, ", "世界 ", "\r\n", "\n\n", "🙂", "data: ", "|", "a-longer-word-than-others ")


@dataclass
class Task:
    """`large`: the part `data` and the artifact are more than PostgreSQL keeps. `fails`: tries that fail midway."""

    words: int = 100
    pause_ms: float = 20.0
    large: bool = False
    fails: int = 0


author = Agent("author", start="Write", state=Task)


def text_of(run_id: str, name: str, attempt: int, task: Task) -> bytes:
    """All bytes of an attempt of the part."""
    rng = random.Random(f"{run_id} {name} {attempt}")
    if name == "data":
        return rng.randbytes(LARGE if task.large else 5 * task.words)
    return "".join(rng.choice(_WORDS) for _ in range(task.words)).encode()


def report_of(run_id: str, task: Task) -> bytes:
    """The bytes of the run's artifact."""
    return random.Random(run_id).randbytes(LARGE if task.large else 100)


def _pieces(whole: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """Cut anywhere, in the middle of characters, too."""
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(count - 1))
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        yield whole[begin:end]


@author.node(to="Store", timeout_s=120, retries=10, backoff_s=0.05)
async def write(ctx: Context, task: Task) -> None:
    async def one(name: str) -> None:
        async with ctx.part(name, media_type=PARTS[name]) as part:
            whole = text_of(ctx.run_id, name, part.attempt, task)
            for number, piece in enumerate(_pieces(whole, task.words, random.Random())):
                await part.write(piece)
                await asyncio.sleep(task.pause_ms / 1000 * random.uniform(0, 2))
                if part.attempt <= task.fails and number == task.words // 2:
                    raise NodeFailed("unlucky")

    async with asyncio.TaskGroup() as parts:
        for name in PARTS:
            parts.create_task(one(name))


@author.node(to=END, timeout_s=120, retries=10)
async def store(ctx: Context, task: Task) -> None:
    await ctx.artifact("report", report_of(ctx.run_id, task))
    ctx.result({"of": ctx.run_id})

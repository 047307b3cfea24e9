"""A process that stores an artifact of a run, and kills itself on the way: DSN, folder, run, fence, point."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from content.plane import LARGE, Plane, append
from pipeline import stages
from runwire.content import NewArtifact


async def main(dsn: str, folder: str, run_id: str, fence: str, point: str) -> None:
    async with stages(dsn) as s:
        plane = Plane(s.database, Path(folder))
        if point == "noted":
            plane.store.put = _kill  # type: ignore[method-assign]
        prepared = await plane.artifacts.prepare(run_id, "large", LARGE + run_id.encode())
        assert isinstance(prepared, NewArtifact)
        if point == "uploaded":
            await _kill()
        if point == "in the transaction":
            store = prepared.store

            async def stored_then_killed(*given: Any) -> None:
                await store(*given)
                await _kill()

            prepared.store = stored_then_killed  # type: ignore[method-assign,assignment]
        await append(s, run_id, prepared, fence=int(fence))
        await _kill()


async def _kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

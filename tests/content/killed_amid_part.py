"""A worker that claims a run, writes half of a part, and kills itself: DSN."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from orchestrate.agents_for_tests import Count, one_node
from pipeline import stages
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import PartWriter
from runwire.content.parts import Parts
from runwire.orchestrate.node_parts import PartDesk

HALF = "half of an ans"


async def half(ctx: Any, _state: Count) -> None:
    async with ctx.part("answer") as part:
        await part.write(HALF)
        await part.bytes.flush()
        os.kill(os.getpid(), signal.SIGKILL)


async def main(dsn: str) -> None:
    async with (
        stages(dsn, one_node(half)) as s,
        PartWriter(s.database, metrics=PartMetrics(s.metrics.out)) as writer,
    ):
        worker = s.worker(worker_id="doomed", desk=PartDesk(Parts(s.database), writer))
        assert await worker.claim() == 1
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A node writes parts: durable, in order, once; each attempt by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from content.killed_amid_part import HALF
from content.plane import LARGE, Plane
from orchestrate.agents_for_tests import Count, Named, one_node
from pipeline import Stages, stages
from runwire import Context, NodeFailed
from runwire.content.part import PartState
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import BUFFER_MAX, PartWriter, Written
from runwire.content.parts import PartReader, Parts
from runwire.db import load_sql
from runwire.errors import PartRefused
from runwire.orchestrate import StartRequest
from runwire.orchestrate.node_parts import PartDesk, PartLimits
from waiting import eventually

TESTS = Path(__file__).parents[1]


@dataclass
class Bench:
    """A worker's parts, on the stages of a test."""

    stages: Stages
    desk: PartDesk
    reader: PartReader
    written: list[Written] = field(default_factory=list)

    async def walk(self, run_id: str = "r") -> list[str]:
        """Starts and walks a run of the agent `one`; the labels of its events."""
        await self.stages.control.start(StartRequest(agent="one", run_id=run_id))
        worker = self.stages.worker(desk=self.desk)
        assert await worker.claim() == 1
        await eventually(lambda: worker.active == 0)
        return await self.labels(run_id)

    async def labels(self, run_id: str = "r") -> list[str]:
        return [label or type_ for _, type_, label in await self.stages.events(run_id)]

    async def content(self, n: int = 1, *, run_id: str = "r") -> bytes:
        return (await self.reader.read(run_id, n, offset=0, limit=1 << 30)).data


@asynccontextmanager
async def bench(
    dsn: str, run: Callable[[Context, Count], Awaitable[None]], *, limits: PartLimits | None = None, **node: object
) -> AsyncIterator[Bench]:
    async with stages(dsn, one_node(run, **node)) as s:  # type: ignore[arg-type]
        written: list[Written] = []
        metrics = PartMetrics(s.metrics.out)
        limits = limits or PartLimits()
        async with PartWriter(
            s.database, metrics=metrics, tenant_bytes=limits.tenant, linger_s=0.005, on_written=written.extend
        ) as writer:
            desk = PartDesk(Parts(s.database), writer, limits)
            yield Bench(s, desk, PartReader(s.database), written)


async def test_a_part_is_opened_written_and_sealed_with_the_end_of_its_node(database: str) -> None:
    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("answer", media_type="text/markdown") as part:
            for word in ("Grüße ", "an ", "alle", "."):
                await part.write(word)
                await asyncio.sleep(0.01)
        ctx.trace("after")

    async with bench(database, write) as b:
        assert await b.walk() == [
            "RunStarted", "Work", "part:answer:1:opened", "after", "part:answer:1:sealed", "Work", "RunFinished",
        ]  # fmt: skip
        assert await b.content() == "Grüße an alle.".encode()
        (part,) = await b.reader.of_run("r")
        assert (part.n, part.attempt, part.name, part.media_type) == (1, 1, "answer", "text/markdown")
        assert (part.state, part.opened_seq, part.ended_seq) == (PartState.SEALED, 3, 5)
        assert b"".join([each.data for each in b.written]) == "Grüße an alle.".encode()
        assert b.written[0].at == 0


async def test_a_part_named_by_a_member_of_an_enumeration_has_its_value_as_name(database: str) -> None:
    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part(Named.ANSWER) as part:
            await part.write("an answer")
        ctx.trace(Named.DONE)

    async with bench(database, write) as b:
        assert (await b.walk())[2:5] == ["part:answer:1:opened", "done", "part:answer:1:sealed"]
        assert [part.name for part in await b.reader.of_run("r")] == ["answer"]


async def test_a_retried_node_begins_a_new_attempt_and_the_old_bytes_are_gone(database: str) -> None:
    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("answer") as part:
            await part.write(f"try {ctx.attempt} of {part.attempt}")
            if ctx.attempt == 1:
                raise NodeFailed("unlucky")

    async with bench(database, write, retries=1) as b:
        assert await b.walk() == [
            "RunStarted", "Work", "part:answer:1:opened", "part:answer:1:abandoned", "error:unlucky:work",
            "retry:2:work", "part:answer:1:opened", "part:answer:1:sealed", "Work", "RunFinished",
        ]  # fmt: skip
        assert await b.content() == b"try 2 of 2"
        (part,) = await b.reader.of_run("r")
        assert (part.attempt, part.state, part.opened_seq) == (2, PartState.SEALED, 7)


async def test_a_block_that_raises_abandons_its_part_though_the_node_goes_on(database: str) -> None:
    async def write(ctx: Context, _state: Count) -> None:
        try:
            async with ctx.part("answer") as part:
                await part.write("half")
                raise ValueError  # noqa: TRY301  # the point
        except ValueError:
            async with ctx.part("apology") as part:
                await part.write("sorry")

    async with bench(database, write) as b:
        labels = await b.walk()
        assert labels[4:6] == ["part:answer:1:abandoned", "part:apology:2:sealed"]
        assert await b.content(2) == b"sorry"


async def test_many_parts_at_once_share_commits_and_keep_their_order(database: str) -> None:
    texts = {f"p{n}": [f"{n}.{k} " for k in range(60)] for n in range(8)}

    async def write(ctx: Context, _state: Count) -> None:
        async def one(name: str) -> None:
            async with ctx.part(name) as part:
                for text in texts[name]:
                    await part.write(text)
                    await asyncio.sleep(0)

        await asyncio.gather(*map(one, texts))

    async with bench(database, write) as b:
        await b.walk()
        for part in await b.reader.of_run("r"):
            assert (await b.content(part.n)).decode() == "".join(texts[part.name])


async def test_large_writes_and_small_ones_take_little_more_than_their_bytes(database: str) -> None:
    small, large = b"x" * 40, b"y" * (BUFFER_MAX * 3)

    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("answer") as part:
            for _ in range(100):
                await part.write(small)
                await asyncio.sleep(0.006)
            await part.write(large)
            for _ in range(100):
                await part.write(small)

    async with bench(database, write, limits=PartLimits(rate=1 << 40)) as b:
        await b.walk()
        assert await b.content() == small * 100 + large + small * 100
        rows = await b.stages.database.fetch("SELECT octet_length(bytes) AS n FROM part_chunks")
        assert len([row for row in rows if row["n"] <= 1024]) <= 12


async def test_limits_fail_the_node_with_a_code(database: str) -> None:
    async def too_many(ctx: Context, _state: Count) -> None:
        for n in range(3):
            async with ctx.part(f"p{n}"):
                pass

    async def too_large(ctx: Context, _state: Count) -> None:
        async with ctx.part("p") as part:
            await part.write("12345")
            await part.write("678901")

    async def badly_named(ctx: Context, _state: Count) -> None:
        async with ctx.part("../p"):
            pass

    limits = PartLimits(per_run=2, bytes=10)
    for node, code in ((too_many, "too_many_parts"), (too_large, "part_too_large"), (badly_named, "invalid_part_name")):
        async with bench(database, node, limits=limits) as b:
            assert f"error:{code}:work" in await b.walk(run_id=code.replace("_", "-"))


async def test_a_worker_that_lost_its_run_writes_nothing_more(database: str) -> None:
    refused: list[BaseException] = []

    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("answer") as part:
            await part.write("kept")
            await eventually(lambda: part.size and stored[-1:] == [4])
            await taken.wait()
            try:
                await part.write("lost")
                await part.complete()  # type: ignore[attr-defined]
            except PartRefused as error:
                refused.append(error)
                raise

    stored: list[int] = []
    taken = asyncio.Event()
    async with bench(database, write) as b:
        await b.stages.control.start(StartRequest(agent="one", run_id="r"))
        worker = b.stages.worker(desk=b.desk)
        assert await worker.claim() == 1

        async def written() -> bool:
            rows = await b.stages.database.fetch("SELECT size FROM parts")
            stored[:] = [row["size"] for row in rows]
            return stored == [4]

        await eventually(written)
        await b.stages.database.execute("UPDATE runs SET fence = fence + 1")
        taken.set()
        await eventually(lambda: worker.active == 0)
        assert len(refused) == 1
        assert await b.content() == b"kept"

        await b.stages.database.execute("UPDATE runs SET lease_until = now() - interval '1 second'")
        again = b.stages.worker(desk=b.desk, worker_id="w2")
        assert await again.claim() == 1
        await eventually(lambda: again.active == 0)
        labels = await b.labels()
        assert labels[3:6] == ["orchestrator.resumed", "part:answer:1:abandoned", "Work"]


async def test_an_answer_that_is_lost_stores_nothing_twice(database: str) -> None:
    """The connection breaks after the commit, before the writer hears of it."""

    async def idle(_ctx: Context, _state: Count) -> None:
        pass

    async with bench(database, idle) as b:
        fence = await b.stages.started_run("x")
        row = await b.stages.database.fetchrow(
            "INSERT INTO parts (run_id, n, name, media_type, opened_seq) VALUES ('x', 1, 'p', 'text/plain', 1) "
            "RETURNING part_id"
        )
        assert row is not None
        part = b.desk.writer.open("x", 1, name="p", attempt=1, part_id=row["part_id"], fence=fence)
        await part.write(b"one ")
        await part.flush()
        await b.stages.database.execute("UPDATE parts SET size = 8, tail = 'one two '")  # as the write below would have
        await part.write(b"two three")
        await part.flush()
        part.close()
        assert await b.content(run_id="x") == b"one two three"
        with pytest.raises(PartRefused):
            await part.write(b"more")


@pytest.mark.crash
async def test_an_answer_whose_worker_is_killed_amid_it_is_complete_once(database: str) -> None:
    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("answer") as part:
            await part.write("the whole answer")

    async with bench(database, write) as b:
        await b.stages.control.start(StartRequest(agent="one", run_id="r"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(TESTS / "content" / "killed_amid_part.py"),
            database,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        assert await b.content() == HALF.encode()
        await b.stages.database.execute("UPDATE runs SET lease_until = now() - interval '1 second'")
        worker = b.stages.worker(desk=b.desk, worker_id="next")
        assert await worker.claim() == 1
        await eventually(lambda: worker.active == 0)
        assert (await b.labels())[2:] == [
            "part:answer:1:opened", "orchestrator.resumed", "part:answer:1:abandoned", "Work", "part:answer:1:opened",
            "part:answer:1:sealed", "Work", "RunFinished",
        ]  # fmt: skip
        assert await b.content() == b"the whole answer"
        (part,) = await b.reader.of_run("r")
        assert (part.attempt, part.size) == (2, len("the whole answer"))


async def test_a_part_whose_opening_nobody_waited_for_ends_with_its_try(database: str) -> None:
    async def write(ctx: Context, _state: Count) -> None:
        if ctx.attempt == 1:
            opening = asyncio.create_task(ctx.part("answer").__aenter__())
            while "append r" not in {task.get_name() for task in asyncio.all_tasks()}:  # noqa: ASYNC110  # it is short
                await asyncio.sleep(0)
            opening.cancel()  # as by a time-out while the commit is slow
            raise NodeFailed("unlucky")
        async with ctx.part("answer") as part:
            await part.write("whole")

    async with bench(database, write, retries=1) as b:
        assert await b.walk() == [
            "RunStarted", "Work", "part:answer:1:opened", "part:answer:1:abandoned", "error:unlucky:work",
            "retry:2:work", "part:answer:1:opened", "part:answer:1:sealed", "Work", "RunFinished",
        ]  # fmt: skip
        assert await b.content() == b"whole"


async def test_a_part_whose_upload_is_collected_before_its_node_ends_fails_the_run(
    database: str, tmp_path: Path
) -> None:
    planes: list[Plane] = []

    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("answer") as part:
            await part.write(LARGE)
        await planes[0].collector().collect()  # as one does an hour later

    async with bench(database, write) as b:
        planes.append(Plane(b.stages.database, tmp_path))
        b.desk = replace(b.desk, artifacts=planes[0].artifacts, reader=b.reader)
        log = await b.walk()
        assert log[-2:] == ["error:content_lost:orchestrator", "RunFinished"]
        view = await b.stages.control.view("r")
        assert (view.state, view.error_code) == ("failed", "content_lost")
        await planes[0].check(collected=True)


async def test_a_read_takes_little_more_from_the_database_than_it_asks_for(database: str) -> None:
    large = bytes(range(250)) * 4000

    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("answer") as part:
            for n in range(0, 6000, 600):
                await part.write(large[n : n + 600])
                await part.complete()  # type: ignore[attr-defined]
            await part.write(large[6000:])

    async with bench(database, write) as b:
        await b.walk()
        read = load_sql("runwire.content", "parts.sql")["read"]
        for offset in (0, 599, 600, 5999, 6000, 6001, 500_000, len(large) - 1):
            rows = await b.stages.database.fetch(read, "r", 1, offset, 256, 1000)
            assert sum(len(row["bytes"]) for row in rows) <= 2000
            found = await b.reader.read("r", 1, offset=offset, limit=1000)
            assert found.data[:400] == large[offset : offset + 400]
            assert len(found.data) <= 1000
        at, whole = 0, b""
        while (found := await b.reader.read("r", 1, offset=at, limit=32_768)).data:
            whole, at = whole + found.data, found.next_offset
        assert whole == large

"""Content that nodes store: with retries, failures, threads and crashes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from content.plane import Plane
from orchestrate.agents_for_tests import Count, Named, one_node
from pipeline import Stages, stages
from runwire import Agent, Context, NodeFailed
from runwire.content.spool import INLINE_MAX
from runwire.errors import InvalidRequest
from runwire.orchestrate import StartRequest
from waiting import eventually


async def walked(s: Stages, plane: Plane, agent: Agent[Any]) -> list[str | None]:
    """Starts a run `r` of the agent and walks it to its end; the names and fns of its log."""
    await s.control.start(StartRequest(agent=agent.name, run_id="r"))
    worker = s.worker(artifacts=plane.artifacts)
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)
    return [label for _, _, label in await s.events("r") if label is not None]


async def test_a_failed_try_leaves_no_result(database: str, tmp_path: Path) -> None:
    async def work(ctx: Context, _state: Count) -> None:
        ctx.result({"try": ctx.attempt})
        if ctx.attempt == 1:
            raise NodeFailed("no_luck")

    agent = one_node(work, retries=1)
    async with stages(database, agent) as s:
        plane = Plane(s.database, tmp_path)
        log = await walked(s, plane, agent)
        assert log == ["Work", "error:no_luck:work", "retry:2:work", "artifact:result:1", "Work"]
        assert await plane.bytes_of("r", 1) == b'{"try":2}'


async def test_a_retried_node_gets_the_same_artifact_for_the_same_bytes_and_a_new_one_for_others(
    database: str, tmp_path: Path
) -> None:
    seen: list[int] = []

    async def work(ctx: Context, _state: Count) -> None:
        seen.append((await ctx.artifact("same", b"same")).n)
        seen.append((await ctx.artifact("other", f"try {ctx.attempt}")).n)
        if ctx.attempt == 1:
            raise NodeFailed("no_luck")

    agent = one_node(work, retries=1)
    async with stages(database, agent) as s:
        plane = Plane(s.database, tmp_path)
        log = await walked(s, plane, agent)
        assert seen == [1, 2, 1, 3]
        before, after = ["Work", "artifact:same:1", "artifact:other:2"], ["artifact:other:3", "Work"]
        assert log == [*before, "error:no_luck:work", "retry:2:work", *after]
        assert [one.name for one in await plane.reader.list("r")] == ["same", "other", "other"]
        assert await plane.bytes_of("r", 3) == b"try 2"


async def test_an_artifact_named_by_a_member_of_an_enumeration_has_its_value_as_name(
    database: str, tmp_path: Path
) -> None:
    async def work(ctx: Context, _state: Count) -> None:
        assert (await ctx.artifact(Named.REPORT, b"a report")).name == "report"

    agent = one_node(work)
    async with stages(database, agent) as s:
        plane = Plane(s.database, tmp_path)
        assert await walked(s, plane, agent) == ["Work", "artifact:report:1", "Work"]
        assert [one.name for one in await plane.reader.list("r")] == ["report"]


async def test_artifacts_keep_their_place_among_traces(database: str, tmp_path: Path) -> None:
    async def work(ctx: Context, _state: Count) -> None:
        ctx.trace("before")
        await ctx.artifact("a", b"a")
        ctx.trace("between")
        await ctx.artifact("b", b"b")
        ctx.trace("after")

    agent = one_node(work)
    async with stages(database, agent) as s:
        log = await walked(s, Plane(s.database, tmp_path), agent)
        assert log == ["Work", "before", "artifact:a:1", "between", "artifact:b:2", "after", "Work"]


async def test_a_node_in_a_thread_stores_content_too(database: str, tmp_path: Path) -> None:
    agent = Agent("threaded", start="Work", state=Count)

    @agent.node()
    def work(ctx: Context, state: Count) -> None:
        stored: Any = ctx.artifact("report", b"x" * (INLINE_MAX + 1))
        state.n = stored.size
        ctx.result([state.n])

    async with stages(database, agent) as s:
        plane = Plane(s.database, tmp_path)
        log = await walked(s, plane, agent)
        assert log == ["Work", "artifact:report:1", "artifact:result:2", "Work"]
        assert await plane.bytes_of("r", 2) == f"[{INLINE_MAX + 1}]".encode()


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("artifact_too_large", b"x" * 2000),
        ("invalid_artifact_name", None),
        ("content_quota_exceeded", b"x" * 900),
        ("bad_result", {1, object()}),
        ("boom", "iterator"),
        ("invalid_content", 17),
    ],
)
async def test_what_cannot_be_stored_fails_the_node_with_its_code(
    database: str, tmp_path: Path, code: str, data: Any
) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"some"
        raise NodeFailed("boom")

    async def work(ctx: Context, _state: Count) -> None:
        if code == "bad_result":
            ctx.result(data)
        await ctx.artifact("a b" if data is None else "a", breaking() if data == "iterator" else data or b"")

    agent = one_node(work)
    async with stages(database, agent) as s:
        plane = Plane(s.database, tmp_path, artifact_bytes=1024, tenant_bytes=800)
        log = await walked(s, plane, agent)
        assert log == ["Work", f"error:{code}:work"]
        assert await s.database.fetchval("SELECT count(*) FROM artifacts") == 0


async def test_nodes_forge_no_event_of_content(database: str, tmp_path: Path) -> None:
    async def work(ctx: Context, _state: Count) -> None:
        for fn in ("artifact:x:1", "part:answer:1:sealed"):
            with pytest.raises(InvalidRequest):
                ctx.trace(fn)

    agent = one_node(work)
    async with stages(database, agent) as s:
        assert await walked(s, Plane(s.database, tmp_path), agent) == ["Work", "Work"]

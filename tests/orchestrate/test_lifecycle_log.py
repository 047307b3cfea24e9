"""The life of a run and its nodes is told at info, by names and numbers alone."""

from __future__ import annotations

from typing import Any

import structlog

from orchestrate.agents_for_tests import Count, asking, fail, one_node
from pipeline import Stages, stages
from runwire import Context
from runwire.orchestrate import StartRequest
from waiting import eventually


async def walked(s: Stages, agent: str) -> str:
    run_id = (await s.control.start(StartRequest(agent=agent))).run_id
    worker = s.worker()
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)
    return run_id


def told(lines: list[Any], run_id: str) -> list[tuple[Any, ...]]:
    """(event, level, node, attempt, code) of the run's lines, but for those of single events."""
    return [
        (line["event"], line["log_level"], line.get("node"), line.get("attempt"), line.get("code"))
        for line in lines
        if line.get("run_id") == run_id
    ]


async def test_each_try_of_a_node_and_its_end_have_a_line(database: str) -> None:
    async def work(ctx: Context, state: Count) -> None:
        if ctx.attempt == 1:
            await fail(ctx, state)

    with structlog.testing.capture_logs() as lines:
        async with stages(database, one_node(work, retries=1)) as s:
            run_id = await walked(s, "one")
    assert told(lines, run_id) == [
        ("run_started", "info", None, None, None),
        ("node_started", "info", "Work", 1, None),
        ("node_failed", "warning", "Work", 1, "no_luck"),
        ("node_started", "info", "Work", 2, None),
        ("node_finished", "info", "Work", 2, None),
        ("run_finished", "info", None, None, None),
    ]
    finished = next(line for line in lines if line["event"] == "node_finished")
    assert 0 <= finished["duration_s"] < 10
    assert next(line for line in lines if line["event"] == "run_finished")["agent"] == "one"


async def test_an_unforeseen_failure_says_its_type_and_where_and_nothing_it_said(database: str) -> None:
    async def work(_ctx: Context, _state: Count) -> None:
        raise ValueError("secret prompt")

    with structlog.testing.capture_logs() as lines:
        async with stages(database, one_node(work)) as s:
            await walked(s, "one")
    (failed,) = [line for line in lines if line["event"] == "node_failed"]
    assert (failed["code"], failed["error_type"], failed["attempt"]) == ("exception", "ValueError", 1)
    assert any("test_lifecycle_log.py" in frame for frame in failed["frames"])
    assert "secret" not in str(lines)


async def test_waiting_and_cancellation_have_their_lines(database: str) -> None:
    with structlog.testing.capture_logs() as lines:
        async with stages(database, asking()) as s:
            run_id = await walked(s, "asking")
            for _ in range(2):  # the second changes nothing, and says nothing
                await s.control.cancel(run_id)
    assert [(line["run_id"], line["signal"]) for line in lines if line["event"] == "run_waiting"] == [
        (run_id, "approved")
    ]
    assert [line["run_id"] for line in lines if line["event"] == "cancel_requested"] == [run_id]

"""The built-in agents as a worker walks them: claimed, logged and checkpointed on a real database."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agents.site import Site, page, serving
from pipeline import Stages, stages
from runwire.agents.explore import explore, summary
from runwire.agents.golden import golden
from runwire.errors import InvalidRequest
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest, Worker
from waiting import eventually

NODES = ["EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown"]


async def started(at: Stages, agent: str, **given: Any) -> str:
    return (await at.control.start(StartRequest(agent=agent, input=given))).run_id


async def idle(worker: Worker) -> None:
    await eventually(lambda: worker.active == 0, within_s=30)


async def test_golden_leaves_exactly_thirteen_events(database: str) -> None:
    async with stages(database, golden) as at:
        run_id = await started(at, "golden")
        worker = at.worker()
        assert await worker.claim() == 1
        await idle(worker)

        steps = [(kind, name) for name in NODES for kind in ("NodeStarted", "NodeFinished")]
        told = [("RunStarted", None), steps[0], ("DebugTrace", "ensureDevice.check"), *steps[1:], ("RunFinished", None)]
        assert await at.events(run_id) == [(seq, *event) for seq, event in enumerate(told, start=1)]


async def test_an_exploration_ends_finished_with_its_map_in_the_last_checkpoint(database: str) -> None:
    replies = {"/": page("/a", "/b"), "/a": page("/b", "/missing"), "/b": page("/")}
    async with serving(replies) as site, stages(database, explore) as at:
        run_id = await started(at, "explore", site=site.origin)
        worker = at.worker()
        await worker.claim()
        await idle(worker)

        assert (await at.control.view(run_id)).state is RunState.FINISHED
        graph = summary(await state_of(at, run_id))
        assert [(known.path, known.outcome.value) for known in graph.pages] == [
            ("/", "page"),
            ("/a", "page"),
            ("/b", "page"),
            ("/missing", "broken"),
        ]
        assert graph.stop_reason == "complete"


async def test_an_exploration_of_nothing_fails_with_its_code(database: str) -> None:
    async with stages(database, explore) as at:
        run_id = await started(at, "explore", site="nonsense")
        worker = at.worker()
        await worker.claim()
        await idle(worker)

        view = await at.control.view(run_id)
        assert (view.state, view.error_code) == (RunState.FAILED, "bad_url")


async def test_a_misspelled_budget_is_refused_before_anything_starts(database: str) -> None:
    async with stages(database, explore) as at:
        with pytest.raises(InvalidRequest, match="max_page"):
            await started(at, "explore", site="http://example.com/", max_page=5)


async def test_an_exploration_handed_over_again_and_again_opens_no_page_twice(database: str) -> None:
    replies = {f"/{n}": page(f"/{n + 1}", "/0") for n in range(8)} | {"/8": page()}
    async with serving(replies) as site, stages(database, explore) as at:
        run_id = await started(at, "explore", site=f"{site.origin}/0", max_depth=20)
        for turn in range(200):
            worker = at.worker(worker_id=f"w{turn}")
            await worker.claim()
            await handed_over(worker, site)
            if (await at.control.view(run_id)).state.terminal:
                break

        assert turn > 3  # it did change hands
        assert site.asked == [f"/{n}" for n in range(9)]
        assert summary(await state_of(at, run_id)).stop_reason == "complete"


async def handed_over(worker: Worker, site: Site) -> None:
    """Lets the worker's runs go on for another page, if there is one, then has it hand them over."""
    opened = len(site.asked)
    await eventually(lambda: len(site.asked) > opened or worker.active == 0, within_s=30)
    await worker.drain(within_s=10)


async def state_of(at: Stages, run_id: str) -> dict[str, Any]:
    stored = (await at.control.state(run_id)).state
    assert stored is not None
    return msgspec.json.decode(stored, type=dict[str, Any])

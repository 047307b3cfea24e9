"""Runs are started once, listed in stable pages, cancelled and signalled durably."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrate.agents_for_tests import asking, looping
from pipeline import RecordingBus, Stages, raw, stages
from runwire import END, Agent, Context
from runwire.agents.golden import golden
from runwire.append import Change
from runwire.errors import InvalidRequest, RunClosed, RunNotFound, StartConflict, UnknownAgent
from runwire.model.event import RUN_FINISHED, Source, debug_trace
from runwire.model.run import DEFAULT_TENANT, RunState
from runwire.orchestrate import RunFilter, RunOrder, StartRequest
from waiting import eventually


async def listed(
    s: Stages, *, limit: int, tenant: str = DEFAULT_TENANT, order: RunOrder = RunOrder.CREATED, **asked: object
) -> list[list[str]]:
    """The run ids of every page, in order."""
    pages: list[list[str]] = []
    cursor = None
    while True:
        page = await s.control.page(RunFilter(**asked), tenant=tenant, order=order, cursor=cursor, limit=limit)  # type: ignore[arg-type]
        pages.append([run.run_id for run in page.runs])
        cursor = page.next_cursor
        if cursor is None:
            return pages


# ------------------------------------------------------------------ start


async def test_a_start_without_an_id_gets_a_uuid_of_version_7(database: str) -> None:
    async with stages(database, golden) as s:
        started = await s.control.start(StartRequest())
        assert uuid.UUID(started.run_id).version == 7
        assert (started.created, started.fence) == (True, None)
        assert s.claimable == ["golden"]


async def test_a_start_with_an_id_gets_that_id(database: str) -> None:
    async with stages(database, golden) as s:
        longest = "aZ09._:-" * 16
        assert (await s.control.start(StartRequest(run_id=longest))).run_id == longest


@pytest.mark.parametrize("run_id", ["", "a" * 129, "a b", "a/b", "a\n", "é", ".", "..", "a\x00"])
async def test_an_id_that_does_not_fit_starts_nothing(database: str, run_id: str) -> None:
    async with stages(database, golden) as s:
        with pytest.raises(InvalidRequest) as refused:
            await s.control.start(StartRequest(run_id=run_id))
        assert refused.value.code == "invalid_run_id"
        assert (await s.control.page()).runs == []


async def test_the_same_id_twice_with_the_same_body_is_one_run(database: str) -> None:
    async with stages(database, golden) as s:
        request = StartRequest(run_id="r", input={"delay_ms": 3})
        first, second = [await s.control.start(request) for _ in range(2)]
        assert (first.run_id, first.created) == ("r", True)
        assert (second.run_id, second.created) == ("r", False)
        assert s.claimable == ["golden"]


async def test_the_same_id_with_another_body_is_a_conflict(database: str) -> None:
    async with stages(database, golden, looping(1)) as s:
        await s.control.start(StartRequest(run_id="r"))
        for other in (
            StartRequest(run_id="r", input={"delay_ms": 1}),
            StartRequest(run_id="r", agent="looping"),
            StartRequest(run_id="r", external=True),
        ):
            with pytest.raises(StartConflict) as refused:
                await s.control.start(other)
            assert (refused.value.run_id, refused.value.by) == ("r", "this runId")


async def test_the_order_of_the_inputs_keys_makes_no_other_body(database: str) -> None:
    async with stages(database, looping(1)) as s:
        await s.control.start(StartRequest(agent="looping", run_id="r", input={"n": 1, "seen": ["x"]}))
        again = await s.control.start(StartRequest(agent="looping", run_id="r", input={"seen": ["x"], "n": 1}))
        assert not again.created


async def test_an_idempotency_key_gives_the_run_it_started(database: str) -> None:
    async with stages(database, golden) as s:
        first = await s.control.start(StartRequest(idempotency_key="order-7"))
        again = await s.control.start(StartRequest(idempotency_key="order-7"))
        assert (again.run_id, again.created) == (first.run_id, False)
        other = await s.control.start(StartRequest(idempotency_key="order-8"))
        assert other.run_id != first.run_id


async def test_an_idempotency_key_with_another_body_is_a_conflict_that_names_the_run(database: str) -> None:
    async with stages(database, golden) as s:
        first = await s.control.start(StartRequest(idempotency_key="order-7"))
        with pytest.raises(StartConflict) as refused:
            await s.control.start(StartRequest(idempotency_key="order-7", input={"delay_ms": 1}))
        assert (refused.value.run_id, refused.value.by) == (first.run_id, "this Idempotency-Key")


async def test_an_id_and_a_key_that_belong_to_two_runs_are_a_conflict(database: str) -> None:
    async with stages(database, golden) as s:
        await s.control.start(StartRequest(run_id="by-id"))
        await s.control.start(StartRequest(idempotency_key="k"))
        with pytest.raises(StartConflict):
            await s.control.start(StartRequest(run_id="by-id", idempotency_key="k"))
        assert len((await s.control.page()).runs) == 2


async def test_keys_of_two_tenants_do_not_meet(database: str) -> None:
    async with stages(database, golden) as s:
        ours = await s.control.start(StartRequest(idempotency_key="k"))
        theirs = await s.control.start(StartRequest(idempotency_key="k", tenant="other"))
        assert theirs.created
        assert await listed(s, limit=10) == [[ours.run_id]]
        assert await listed(s, limit=10, tenant="other") == [[theirs.run_id]]


@pytest.mark.parametrize("by", ["key", "id"])
async def test_starts_at_the_same_moment_make_exactly_one_run(database: str, by: str) -> None:
    request = StartRequest(idempotency_key="k") if by == "key" else StartRequest(run_id="r")
    async with stages(database, golden) as s:
        answers = await asyncio.gather(*(s.control.start(request) for _ in range(20)))
        assert [answer.created for answer in answers].count(True) == 1
        assert len({answer.run_id for answer in answers}) == 1
        assert len((await s.control.page()).runs) == 1
        assert s.claimable == ["golden"]


async def test_an_external_start_gives_the_fence_again_when_it_is_repeated(database: str) -> None:
    async with stages(database, golden) as s:
        request = StartRequest(agent="theirs", run_id="r", external=True)
        assert [(await s.control.start(request)).fence for _ in range(2)] == [1, 1]
        assert s.claimable == []
        assert await s.worker().claim() == 0


async def test_an_agent_nobody_knows_is_refused_with_those_that_are_known(database: str) -> None:
    async with stages(database, golden, looping(1)) as s:
        with pytest.raises(UnknownAgent) as refused:
            await s.control.start(StartRequest(agent="nobody"))
        assert refused.value.known == ("golden", "looping")


@pytest.mark.parametrize("wrong", [{"delay_ms": -1}, {"delay_ms": "long"}, {"delay_ms": None}])
async def test_an_input_that_does_not_fit_the_agents_state_starts_nothing(
    database: str, wrong: dict[str, object]
) -> None:
    async with stages(database, golden) as s:
        with pytest.raises(InvalidRequest) as refused:
            await s.control.start(StartRequest(input=wrong))
        assert refused.value.code == "invalid_input"
        assert (await s.control.page()).runs == []


async def test_a_run_that_was_never_committed_is_told_to_nobody(database: str) -> None:
    async with stages(database, golden) as s:
        blocker = await raw(database)
        await blocker.execute("BEGIN")
        await blocker.execute("LOCK TABLE run_outbox IN ACCESS EXCLUSIVE MODE")
        starting = asyncio.create_task(s.control.start(StartRequest()))

        async def held_up() -> bool:
            return bool(await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(held_up)
        assert s.claimable == []
        await blocker.execute("ROLLBACK")
        await starting
        assert s.claimable == ["golden"]
        await blocker.close()


# ------------------------------------------------------------------ view and list


async def test_a_view_tells_what_is_stored_and_what_is_published(database: str) -> None:
    async with stages(database, golden) as s:
        fence = await s.started_run("r")
        await s.log.append("r", [debug_trace("a"), debug_trace("b")], fence=fence, source=Source.API)
        view = await s.control.view("r")
        assert (view.state, view.last_seq, view.published_seq, view.outcome) == ("started", 3, 0, None)
        assert view.external
        assert view.started_at is not None
        assert view.finished_at is None
        publisher = s.publisher(RecordingBus())
        publisher.mark_dirty(["r"], by="local")
        await publisher.publish_pending()
        assert (await s.control.view("r")).published_seq == 3
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FAILED))
        view = await s.control.view("r")
        assert (view.state, view.outcome, view.last_seq, view.published_seq) == ("failed", "failed", 4, 3)
        publisher.mark_dirty(["r"], by="local")
        await publisher.publish_pending()
        await publisher.aclose()
        view = await s.control.view("r")
        assert view.published_seq == 4
        assert view.created_at <= (view.started_at or 0) <= (view.finished_at or 0)


async def test_an_unknown_run_is_not_found(database: str) -> None:
    async with stages(database) as s:
        for ask in (s.control.view, s.control.state, s.control.cancel):
            with pytest.raises(RunNotFound):
                await ask("nobody")
        with pytest.raises(RunNotFound):
            await s.control.signal("nobody", "go")


async def test_pages_are_newest_first_and_stay_as_they_are_while_new_runs_arrive(database: str) -> None:
    async with stages(database, golden) as s:
        there = [(await s.control.start(StartRequest(run_id=f"old-{n}"))).run_id for n in range(7)]
        seen: list[str] = []
        cursor = None
        for n in range(3):
            page = await s.control.page(cursor=cursor, limit=3)
            seen += [run.run_id for run in page.runs]
            cursor = page.next_cursor
            await s.control.start(StartRequest(run_id=f"new-{n}"))
        assert cursor is None
        assert seen == there[::-1]


async def test_runs_of_the_same_microsecond_are_each_listed_once(database: str) -> None:
    async with stages(database, golden) as s:
        async with s.database.transaction() as tx:
            for n in range(10):
                await tx.execute(
                    "INSERT INTO runs (run_id, agent, request_hash, input) VALUES ($1, 'golden', '', '')", f"r{n}"
                )
        pages = await listed(s, limit=3)
        assert [len(page) for page in pages] == [3, 3, 3, 1]
        assert sorted(run for page in pages for run in page) == [f"r{n}" for n in range(10)]


async def test_a_last_page_that_is_full_has_no_successor(database: str) -> None:
    async with stages(database, golden) as s:
        for _ in range(4):
            await s.control.start(StartRequest())
        assert [len(page) for page in await listed(s, limit=2)] == [2, 2]
        assert await listed(s, limit=2, agent="nobody") == [[]]


async def test_filters_by_state_and_agent_hold_on_every_page(database: str) -> None:
    async with stages(database, golden, looping(1)) as s:
        for n in range(3):
            await s.control.start(StartRequest(run_id=f"g{n}"))
            await s.control.start(StartRequest(agent="looping", run_id=f"l{n}"))
            await s.started_run(f"e{n}", agent="golden")
        assert await listed(s, limit=2, agent="golden", state=RunState.PENDING) == [["g2", "g1"], ["g0"]]
        assert await listed(s, limit=2, state=RunState.STARTED) == [["e2", "e1"], ["e0"]]
        assert await listed(s, limit=9, agent="looping") == [["l2", "l1", "l0"]]
        assert await listed(s, limit=9, state=RunState.CANCELLED) == [[]]


def _forged(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "!!!!", "é", _forged(""), _forged("1"), _forged(" r"), _forged("x r"), _forged("-1 r"), _forged("1 a b"),
     _forged(f"{2**63} r"), _forged("9" * 5000 + " r"), _forged("1 " + "r" * 129), _forged("1 r\x00"), "\ud800"],
)  # fmt: skip
async def test_a_cursor_that_was_not_given_is_refused(database: str, cursor: str) -> None:
    async with stages(database, golden) as s:
        with pytest.raises(InvalidRequest) as refused:
            await s.control.page(cursor=cursor)
        assert refused.value.code == "invalid_cursor"


async def test_whatever_is_sent_as_a_cursor_is_a_page_or_a_refusal(database: str) -> None:
    async with stages(database, golden) as s:
        await s.control.start(StartRequest())
        loop = asyncio.get_running_loop()

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.one_of(st.text(max_size=40), st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()),
                         st.tuples(st.integers(), st.text(max_size=8)).map(lambda t: _forged(f"{t[0]} {t[1]!a}")),
                         st.integers(0, 2**53 - 1).map(lambda n: _forged(f"{n} r"))))  # fmt: skip
        def try_one(cursor: str) -> None:
            async def ask() -> None:
                with contextlib.suppress(InvalidRequest):
                    await s.control.page(cursor=cursor)

            asyncio.run_coroutine_threadsafe(ask(), loop).result(30)

        await asyncio.to_thread(try_one)


# ------------------------------------------------------------------ cancel and signal


async def test_cancelling_twice_keeps_the_time_of_the_first_and_tells_workers_once(database: str) -> None:
    async with stages(database, golden) as s:
        await s.control.start(StartRequest(run_id="r"))
        s.claimable.clear()
        asked_at = "SELECT cancel_requested_at FROM runs"
        assert (await s.control.cancel("r")).cancel_requested
        first = await s.database.fetchval(asked_at)
        assert (await s.control.cancel("r")).cancel_requested
        assert await s.database.fetchval(asked_at) == first
        assert (s.cancelled, s.claimable) == (["r"], ["golden"])


async def test_cancelling_a_closed_run_changes_nothing(database: str) -> None:
    async with stages(database, golden) as s:
        fence = await s.started_run("r")
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED))
        view = await s.control.cancel("r")
        assert (view.state, view.cancel_requested, s.cancelled) == ("finished", False, [])


async def test_cancels_at_the_same_moment_are_one(database: str) -> None:
    async with stages(database, golden) as s:
        await s.control.start(StartRequest(run_id="r"))
        views = await asyncio.gather(*(s.control.cancel("r") for _ in range(10)))
        assert all(view.cancel_requested for view in views)
        assert s.cancelled == ["r"]


async def test_a_signal_is_kept_once_until_its_run_takes_it(database: str) -> None:
    async with stages(database, asking()) as s:
        await s.control.start(StartRequest(agent="asking", run_id="r"))
        s.claimable.clear()
        for _ in range(2):
            await s.control.signal("r", "approved")
        assert s.claimable == ["asking", "asking"]
        assert await s.database.fetchval("SELECT count(*) FROM run_signals") == 1
        worker = s.worker()
        for _ in range(2):
            await worker.claim()
            await eventually(lambda: worker.active == 0)
        assert (await s.control.view("r")).state == "finished"
        assert await s.database.fetchval("SELECT count(*) FROM run_signals") == 0


async def test_a_signal_to_a_closed_run_says_how_it_ended(database: str) -> None:
    async with stages(database, golden) as s:
        fence = await s.started_run("r")
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED))
        with pytest.raises(RunClosed) as refused:
            await s.control.signal("r", "approved")
        assert (refused.value.state, refused.value.last_seq) == ("finished", 2)
        assert await s.database.fetchval("SELECT count(*) FROM run_signals") == 0


# ------------------------------------------------------------------ state


async def test_the_state_is_that_of_the_last_checkpoint(database: str) -> None:
    async with stages(database, looping(2)) as s:
        await s.control.start(StartRequest(agent="looping", run_id="r", input={"n": 1}))
        before = await s.control.state("r")
        assert (before.seq, before.state) == (0, b'{"n":1,"seen":[]}'), "the one that it begins with"
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        after = await s.control.state("r")
        assert after.state == b'{"n":2,"seen":[]}'
        assert after.seq == (await s.control.view("r")).last_seq - 1


@dataclass
class Picky:
    n: int = 0

    def __post_init__(self) -> None:
        if self.n == 1:
            raise ValueError("odd")
        if self.n == 2:
            raise LookupError("nothing under 2")


@pytest.mark.parametrize("n", [1, 2])
async def test_an_input_that_the_states_own_check_refuses_is_the_callers_mistake(database: str, n: int) -> None:
    picky = Agent("picky", start="Only", state=Picky)

    @picky.node(to=(END,))
    async def only(_ctx: Context, _state: Picky) -> None: ...

    async with stages(database, picky) as s:
        with pytest.raises(InvalidRequest) as refused:
            await s.control.start(StartRequest(agent="picky", input={"n": n}))
        assert refused.value.code == "invalid_input"
        assert "nothing under" not in refused.value.detail
        assert (await s.control.page()).runs == []

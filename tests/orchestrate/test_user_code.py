"""Nodes may do anything: the process lives, the run ends in one terminal event with a bounded code, others go on."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import datetime as dt
import enum
import re
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from structlog.testing import capture_logs

from pipeline import Stages, stages
from postgres import cloned_database
from runwire import END, Agent, Context, NodeFailed, RunwireError, Wait
from runwire.errors import InvalidRequest
from runwire.orchestrate import StartRequest, Worker
from waiting import eventually

TEXT = "bob@example.com was not found"


@dataclass
class Bag:
    x: Any = None
    n: int = 0
    names: list[str] = field(default_factory=list)


class Deeds:
    """An agent whose one node does what a test says, by the run's `n`."""

    def __init__(self, *, plain: bool = False, **node: Any) -> None:
        self.list: list[Callable[[Context, Bag], Any]] = []
        self.agent = Agent("deeds", start="Do", state=Bag)

        def do(ctx: Context, bag: Bag) -> Any:
            return self.list[bag.n](ctx, bag)

        async def do_async(ctx: Context, bag: Bag) -> Any:
            await asyncio.sleep(0)
            return do(ctx, bag)

        self.agent.node(name="Do", to=("Next", END), timeout_s=10, **node)(do if plain else do_async)

        @self.agent.node(name="Next")
        async def following(_ctx: Context, bag: Bag) -> None:
            bag.names.append("next")

    async def run(self, s: Stages, *deeds: Callable[[Context, Bag], Any], worker: Worker | None = None) -> list[str]:
        """Starts a run for each, walks them all to where they rest, and returns their ids."""
        first = len(self.list)
        self.list += deeds
        started = [
            (await s.control.start(StartRequest(agent="deeds", input={"n": first + n}))).run_id
            for n in range(len(deeds))
        ]
        worker = worker or s.worker()
        assert await worker.claim() == len(deeds)
        await eventually(lambda: worker.active == 0, within_s=20)
        return started


def raising(error: Callable[[], BaseException]) -> Callable[[Context, Bag], Any]:
    def deed(_ctx: Context, _bag: Bag) -> Any:
        raise error()

    return deed


def returning(value: Callable[[], Any]) -> Callable[[Context, Bag], Any]:
    return lambda _ctx, _bag: value()


def leaving(value: Callable[[], Any]) -> Callable[[Context, Bag], Any]:
    def deed(_ctx: Context, bag: Bag) -> str:
        bag.x = value()
        return END

    return deed


async def ends(s: Stages, run_id: str) -> tuple[str, str | None, str]:
    """State, code and the trace of the failure; one terminal event, and it is last."""
    events = await s.events(run_id)
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    assert [type_ for _, type_, _ in events].count("RunFinished") == 1
    assert events[-1][1] == "RunFinished"
    view = await s.control.view(run_id)
    return view.state, view.error_code, str(events[-2][2])


# ------------------------------------------------------------------ what nodes raise and return


class Odd(BaseException):
    pass


class Raises(Exception):
    """Nothing can be done with it but to raise it."""

    code = property(lambda _self: sys.exit(3))
    retry = property(lambda _self: sys.exit(3))

    def __repr__(self) -> str:
        raise SystemExit(3)

    __str__ = __repr__

    def __eq__(self, _other: object) -> bool:
        raise KeyboardInterrupt

    def __hash__(self) -> int:
        raise GeneratorExit

    def __bool__(self) -> bool:
        raise SystemExit(4)

    @property
    def __class__(self) -> Any:
        raise SystemExit(5)

    @__class__.setter
    def __class__(self, _to: Any) -> None: ...


class FailedOddly(NodeFailed):
    code = property(lambda _self: sys.exit(3))

    def __init__(self) -> None:
        Exception.__init__(self, TEXT)


class Goes(enum.StrEnum):
    NEXT = "Next"


class EqualToAll(str):
    __slots__ = ()

    def __eq__(self, _other: object) -> bool:
        return True

    __hash__ = str.__hash__


def coded(code: Any) -> NodeFailed:
    return NodeFailed(code, TEXT)


RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "sys.exit": (lambda: SystemExit(TEXT), "exception"),
    "sys.exit(0)": (lambda: SystemExit(0), "exception"),
    "an interrupt": (lambda: KeyboardInterrupt(TEXT), "exception"),
    "GeneratorExit": (lambda: GeneratorExit(TEXT), "exception"),
    "a BaseException": (lambda: Odd(TEXT), "exception"),
    "StopIteration": (lambda: StopIteration(TEXT), "exception"),
    "StopAsyncIteration": (lambda: StopAsyncIteration(TEXT), "exception"),
    "MemoryError": (lambda: MemoryError(TEXT), "exception"),
    "RecursionError": (lambda: RecursionError(TEXT), "exception"),
    "a group": (lambda: ExceptionGroup(TEXT, [ValueError(TEXT)]), "exception"),
    "a group that exits": (lambda: BaseExceptionGroup(TEXT, [SystemExit(2)]), "exception"),
    "a group in a group": (
        lambda: BaseExceptionGroup(TEXT, [BaseExceptionGroup(TEXT, [KeyboardInterrupt()])]),
        "exception",
    ),
    "a cancellation of its own": (lambda: asyncio.CancelledError(TEXT), "cancelled"),
    "TimeoutError": (lambda: TimeoutError(TEXT), "exception"),
    "an error that raises": (Raises, "exception"),
    "a NodeFailed that raises": (FailedOddly, "exception"),
    "an error of ours": (lambda: InvalidRequest(TEXT, code="invalid_run_id"), "invalid_run_id"),
    "a code": (lambda: coded("out_of_stock"), "out_of_stock"),
    "a text": (lambda: coded(TEXT), "exception"),
    "a number": (lambda: coded(404), "exception"),
    "nothing": (lambda: coded(None), "exception"),
    "an empty code": (lambda: coded(""), "exception"),
    "a long code": (lambda: coded("x" * 100_000), "exception"),
    "a line": (lambda: coded("ok\n"), "exception"),
    "NUL": (lambda: coded("a\0b"), "exception"),
    "half a character": (lambda: coded("\ud800"), "exception"),
    "an object": (lambda: coded(Raises()), "exception"),
}


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_whatever_a_node_raises_its_run_fails_with_a_bounded_code(
    database: str,
    plain: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    deeds = Deeds(plain=plain)
    async with stages(database, deeds.agent) as s:
        with capture_logs() as logs:
            runs = await deeds.run(s, *[raising(error) for error, _ in RAISED.values()])
        found = {name: await ends(s, run_id) for name, run_id in zip(RAISED, runs, strict=True)}
        if not plain:  # a coroutine cannot raise it; asyncio's own futures could not keep it
            assert found["StopIteration"][1] == "exception"
        assert found == {name: ("failed", code, f"error:{code}:do") for name, (_, code) in RAISED.items()}
    said = capfd.readouterr()
    assert "bob" not in f"{logs}{said.out}{said.err}"


RETURNED: dict[str, tuple[Callable[[], Any], str | None]] = {
    "a name": (lambda: "Next", None),
    "a name of an enumeration": (lambda: Goes.NEXT, None),
    "a name that is equal to all": (lambda: EqualToAll(TEXT), "bad_exit"),
    "nothing, where there are two ways": (lambda: None, "bad_exit"),
    "another name": (lambda: TEXT, "bad_exit"),
    "a list": (lambda: ["Next"], "bad_exit"),
    "a number": (lambda: 1, "bad_exit"),
    "bytes": (lambda: b"Next", "bad_exit"),
    "an object that raises": (Raises, "bad_exit"),
    "a class": (lambda: Wait, "bad_exit"),
    "half a character": (lambda: "\ud800", "bad_exit"),
    "a wait that leads nowhere": (lambda: Wait("go", then="Nope"), "bad_exit"),
    "a wait that leads to a number": (lambda: Wait("go", then=1), "bad_exit"),  # type: ignore[arg-type]
    "a wait for what cannot be sent": (lambda: Wait("needs approval", then="Next"), "bad_wait"),
    "a wait for nothing": (lambda: Wait(None, then="Next"), "bad_wait"),
    "a wait for NUL": (lambda: Wait("a\0b", then="Next"), "bad_wait"),
}


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_whatever_a_node_returns_the_run_goes_where_it_declared_or_fails(database: str, plain: bool) -> None:
    deeds = Deeds(plain=plain)
    async with stages(database, deeds.agent) as s:
        runs = await deeds.run(s, *[returning(value) for value, _ in RETURNED.values()])
        found = {name: (await ends(s, run_id))[:2] for name, run_id in zip(RETURNED, runs, strict=True)}
        assert found == {name: ("failed" if code else "finished", code) for name, (_, code) in RETURNED.items()}


async def test_a_node_that_waits_is_ended_by_the_signal_it_names(database: str) -> None:
    deeds = Deeds()
    async with stages(database, deeds.agent) as s:
        (run_id,) = await deeds.run(s, returning(lambda: Wait(Goes.NEXT, then="Next")))
        view = await s.control.view(run_id)
        assert (view.state, view.waiting_for) == ("waiting", "Next")
        await s.control.signal(run_id, "Next")
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        assert (await ends(s, run_id))[0] == "finished"


# ------------------------------------------------------------------ states


async def test_a_state_that_does_not_come_back_as_it_was_is_a_bad_state(database: str) -> None:
    values: list[Any] = [{1}, (1,), dt.datetime.now(dt.UTC), {1: 2}, b"x", float("nan"), "\ud800", object(), Raises()]
    deeds = Deeds()
    async with stages(database, deeds.agent) as s:
        runs = await deeds.run(s, *[leaving(lambda value=value: value) for value in values])  # type: ignore[misc]
        assert [await ends(s, run_id) for run_id in runs] == [("failed", "bad_state", "error:bad_state:do")] * len(
            values
        )


async def test_a_state_over_the_limit_fails_the_run_and_one_below_it_does_not(database: str) -> None:
    deeds = Deeds()
    async with stages(database, deeds.agent) as s:
        fits, too_large, huge = await deeds.run(
            s,
            leaving(lambda: "m" * 1900),
            leaving(lambda: "m" * 2100),
            leaving(lambda: ["m" * 1000] * 10**7),
            worker=s.worker(state_max_bytes=2000),
        )
        assert (await ends(s, fits))[:2] == ("finished", None)
        for run_id in (too_large, huge):
            assert await ends(s, run_id) == ("failed", "state_too_large", "error:state_too_large:do")
            assert (await s.control.state(run_id)).seq == 0, "there is no checkpoint"


async def test_the_next_node_gets_the_state_as_the_checkpoint_has_it(database: str) -> None:
    left: list[Bag] = []

    def keeps_it(_ctx: Context, bag: Bag) -> str:
        left.append(bag)
        bag.x = ["kept"]
        return "Next"

    deeds = Deeds()
    async with stages(database, deeds.agent) as s:
        (run_id,) = await deeds.run(s, keeps_it)
        assert left[0].names == []  # the node after it has an object of its own
        stored = msgspec.json.decode((await s.control.state(run_id)).state or b"")
        assert stored == {"x": ["kept"], "n": 0, "names": ["next"]}


async def test_a_run_keeps_the_defaults_it_began_with(database: str) -> None:
    """A deploy that changes a default changes no run, whether it has a checkpoint or not."""

    @dataclass
    class Before:
        price: int = 10
        seen: list[int] = field(default_factory=list)

    @dataclass
    class After:
        price: int = 99
        seen: list[int] = field(default_factory=list)

    def shop(state: type[Any]) -> Agent[Any]:
        agent: Agent[Any] = Agent("shop", start="Price", state=state)

        @agent.node(to="Ask")
        async def price(_ctx: Context, state: Any) -> None:
            state.seen.append(state.price)

        @agent.node(to="Pay")
        async def ask(_ctx: Context, _state: Any) -> Wait:
            return Wait("paid", then="Pay")

        @agent.node()
        async def pay(_ctx: Context, state: Any) -> None:
            state.seen.append(state.price)

        return agent

    async with stages(database, shop(Before)) as s:
        waiting = (await s.control.start(StartRequest(agent="shop"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        pending = (await s.control.start(StartRequest(agent="shop"))).run_id
    async with stages(database, shop(After)) as s:
        for run_id in (waiting, pending):
            await s.control.signal(run_id, "paid")
        worker = s.worker()
        for _ in range(2):
            await worker.claim()
            await eventually(lambda: worker.active == 0)
        for run_id in (waiting, pending):
            state = msgspec.json.decode((await s.control.state(run_id)).state or b"")
            assert state == {"price": 10, "seen": [10, 10]}


async def test_a_pydantic_model_is_a_state_like_any_other(database: str) -> None:
    class Line(BaseModel):
        item: str
        at: dt.datetime | None = None

    class Order(BaseModel, extra="forbid"):
        lines: list[Line] = []
        total: int = 0

    agent: Agent[Order] = Agent("orders", start="Price", state=Order)

    @agent.node(to="Close")
    async def price(_ctx: Context, order: Order) -> None:
        order.lines[0].at = dt.datetime(2026, 3, 29, tzinfo=dt.UTC)
        order.total += 3

    @agent.node()
    async def close(_ctx: Context, order: Order) -> None:
        assert order.lines[0].at == dt.datetime(2026, 3, 29, tzinfo=dt.UTC)
        order.total += 4

    async with stages(database, agent) as s:
        run_id = (await s.control.start(StartRequest(agent="orders", input={"lines": [{"item": "book"}]}))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        state = msgspec.json.decode((await s.control.state(run_id)).state or b"")
        assert state == {"lines": [{"item": "book", "at": "2026-03-29T00:00:00Z"}], "total": 7}
        with pytest.raises(InvalidRequest) as error:
            await s.control.start(StartRequest(agent="orders", input={"lines": [{"item": 7}], "secret": TEXT}))
        assert error.value.detail == "input: lines.0.item: string_type; secret: extra_forbidden"


# ------------------------------------------------------------------ plain nodes, in threads


async def test_a_plain_node_runs_in_a_thread_with_its_context_and_traces_from_there(database: str) -> None:
    where = contextvars.ContextVar("where", default="nowhere")
    loop_thread = threading.get_ident()

    def work(ctx: Context, bag: Bag) -> str:
        assert threading.get_ident() != loop_thread
        ctx.trace("work.one")
        ctx.trace("work.two")
        bag.names.append(where.get())
        return END

    deeds = Deeds(plain=True)
    async with stages(database, deeds.agent) as s:
        where.set("here")
        (run_id,) = await deeds.run(s, work)
        assert [label for _, type_, label in await s.events(run_id) if type_ == "DebugTrace"] == [
            "work.one",
            "work.two",
        ]
        assert msgspec.json.decode((await s.control.state(run_id)).state or b"")["names"] == ["here"]


async def test_a_plain_node_may_give_something_to_await(database: str) -> None:
    async def later() -> str:
        return "Next"

    deeds = Deeds(plain=True)
    async with stages(database, deeds.agent) as s:
        (run_id,) = await deeds.run(s, returning(later))
        assert (await ends(s, run_id))[:2] == ("finished", None)


async def test_a_plain_node_that_runs_out_of_time_is_left_behind_and_told_of(database: str) -> None:
    release = threading.Event()
    refused: list[str] = []

    def hangs(ctx: Context, _bag: Bag) -> str:
        release.wait(30)
        try:
            ctx.trace("too.late")
        except RuntimeError:
            refused.append("trace")
        return END

    deeds = Deeds(plain=True)
    node = deeds.agent.nodes["Do"]
    deeds.agent.node(name="Other", to=END)(hangs)  # only so that the node's settings stay as declared
    quick: Agent[Bag] = Agent("quick", start="Do", state=Bag)
    quick.node(name="Do", timeout_s=0.05)(hangs)
    assert node.in_thread
    async with stages(database, quick) as s:
        with capture_logs() as logs:
            run_id = (await s.control.start(StartRequest(agent="quick"))).run_id
            worker = s.worker(worker_threads=1)
            await worker.claim()
            await eventually(lambda: worker.active == 0)
        assert await ends(s, run_id) == ("failed", "timeout", "error:timeout:do")
        assert [line["code"] for line in logs if line["event"] == "node_failed"] == ["abandoned", "timeout"]
        # Its thread keeps its place until it ends; then the next node has it.
        second = (await s.control.start(StartRequest(agent="quick"))).run_id
        await worker.claim()
        await eventually(lambda: worker.active == 1)
        release.set()
        await eventually(lambda: worker.active == 0)
        assert (await ends(s, second))[:2] == ("finished", None)
        assert refused == ["trace"]


# ------------------------------------------------------------------ anything at all

CODE = re.compile(r"[a-z][a-z0-9_]{0,47}")
KINDS = [
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, BaseException) and not issubclass(kind, BaseExceptionGroup)
]


def made(kind: type[BaseException], text: str) -> BaseException:
    if issubclass(kind, UnicodeEncodeError):
        return kind("utf-8", text, 0, 1, text)
    if issubclass(kind, UnicodeDecodeError):
        return kind("utf-8", text.encode(errors="replace"), 0, 1, text)
    if issubclass(kind, UnicodeTranslateError):
        return kind(text, 0, 1, text)
    return kind(text)


@dataclass(frozen=True)
class Made:
    """Stands for an object that nobody could print, until a node has it."""

    by: Callable[[], Any]


def alive(value: Any) -> Any:
    if isinstance(value, Made):
        return value.by()
    if isinstance(value, (list, tuple)):
        return type(value)(map(alive, value))
    return {key: alive(inner) for key, inner in value.items()} if isinstance(value, dict) else value


texts = st.text(st.characters(), max_size=20) | st.sampled_from([TEXT, "a\0b", "\ud800", "x" * 1000])
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.binary(max_size=20)
    | st.datetimes()
    | st.decimals()
    | st.uuids()
    | st.frozensets(st.integers(), max_size=2)
    | st.sampled_from([Made(object), Made(Raises), Made(Odd), Made(lambda: 10**5000), Made(lambda: Goes.NEXT)]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(texts | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
errors: st.SearchStrategy[Made] = st.recursive(
    st.builds(
        lambda kind, text: Made(lambda: made(kind, text)),
        st.sampled_from([*KINDS, Odd, RunwireError, asyncio.CancelledError]),
        texts,
    )
    | st.builds(lambda code: Made(lambda: coded(alive(code))), texts | values)
    | st.sampled_from([Made(Raises), Made(FailedOddly)]),
    lambda inner: st.builds(
        lambda text, parts: Made(lambda: BaseExceptionGroup(text, [part.by() for part in parts])),
        texts,
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)
deeds_of_nodes = st.one_of(
    st.builds(lambda error: raising(error.by), errors),
    st.builds(lambda value: returning(lambda: alive(value)), values),
    st.builds(lambda value: leaving(lambda: alive(value)), values),
    st.builds(lambda signal: returning(lambda: Wait(alive(signal), then="Next")), texts | values),
)


def test_whatever_nodes_do_the_process_lives_and_every_run_ends(postgres_dsn: str) -> None:
    """The property: any exception, return value or state, in a walk on PostgreSQL, several runs at a time."""
    sound = Agent("sound", start="Work", state=Bag)

    @sound.node()
    async def work(ctx: Context, bag: Bag) -> None:
        ctx.trace("work.done")
        bag.names.append("done")

    async_deeds, plain_deeds = Deeds(), Deeds(plain=True)
    plain_deeds.agent.name = "plain"

    async def example(s: Stages, worker: Worker, deeds: list[tuple[bool, Callable[[Context, Bag], Any]]]) -> None:
        runs = []
        for plain, deed in deeds:
            mine = plain_deeds if plain else async_deeds
            mine.list.append(deed)
            asked = StartRequest(agent=mine.agent.name, input={"n": len(mine.list) - 1})
            runs.append((await s.control.start(asked)).run_id)
        bystander = (await s.control.start(StartRequest(agent="sound"))).run_id
        await worker.claim()
        await eventually(lambda: worker.active == 0, within_s=20)
        for run_id in runs:
            view = await s.control.view(run_id)
            if view.state == "waiting":
                await s.control.signal(run_id, view.waiting_for or "")
        await worker.claim()
        await eventually(lambda: worker.active == 0, within_s=20)
        for run_id in runs:
            state, code, _ = await ends(s, run_id)
            assert state == "finished" if code is None else state == "failed"
            assert code is None or CODE.fullmatch(code)
        assert (await ends(s, bystander))[:2] == ("finished", None)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def begin() -> tuple[Stages, Worker]:
            dsn = await stack.enter_async_context(cloned_database(postgres_dsn))
            s = await stack.enter_async_context(stages(dsn, sound, async_deeds.agent, plain_deeds.agent))
            return s, s.worker()

        s, worker = runner.run(begin())

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(deeds=st.lists(st.tuples(st.booleans(), deeds_of_nodes), min_size=1, max_size=6))
        def property_(deeds: list[tuple[bool, Callable[[Context, Bag], Any]]]) -> None:
            runner.run(example(s, worker, deeds))

        try:
            property_()
        finally:
            runner.run(stack.aclose())

"""An agent that cannot run is refused when it is declared, with a sentence for each thing that is wrong."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from runwire import END, Agent, NodeFailed, Wait
from runwire.errors import GraphError


@dataclass
class Nothing:
    pass


async def work(_ctx: Any, _state: Any) -> None: ...


def problems(
    *, name: Any = "a", start: Any = "Go", state: Any = Nothing, node: Any = work, **settings: Any
) -> tuple[str, ...]:
    agent: Agent[Any] = Agent(name, start=start, state=state)
    agent.node(**{"name": "Go", **settings})(node)
    try:
        agent.check()
    except GraphError as error:
        return error.problems
    return ()


# ------------------------------------------------------------------ functions


def plain(_ctx: Any, _state: Any) -> None: ...


class CallableNode:
    async def __call__(self, _ctx: Any, _state: Any) -> None: ...


class Team:
    async def bound(self, _ctx: Any, _state: Any) -> None: ...

    @staticmethod
    async def static(_ctx: Any, _state: Any) -> None: ...


async def with_more(_more: int, _ctx: Any, _state: Any) -> None: ...


@pytest.mark.parametrize(
    ("node", "in_thread"),
    [
        (work, False),
        (plain, True),
        (CallableNode(), False),
        (Team().bound, False),
        (Team.static, False),
        (functools.partial(with_more, 1), False),
        (functools.partial(plain), True),
        (lambda _ctx, _state: None, True),
    ],
)
def test_async_and_plain_functions_are_nodes_and_plain_ones_run_in_a_thread(node: Any, in_thread: bool) -> None:
    assert problems(node=node) == ()
    agent: Agent[Any] = Agent("a", start="Go", state=Nothing)
    agent.node(name="Go")(node)
    assert agent.nodes["Go"].in_thread is in_thread


def generator(_ctx: Any, _state: Any) -> Iterator[str]:
    yield END


async def async_generator(_ctx: Any, _state: Any) -> AsyncIterator[str]:
    yield END


async def takes_one(_state: Any) -> None: ...
async def takes_none() -> None: ...
async def takes_three(_ctx: Any, _state: Any, _more: Any) -> None: ...
async def takes_named(*, _ctx: Any, _state: Any) -> None: ...


@pytest.mark.parametrize("node", [generator, async_generator])
def test_a_generator_is_no_node(node: Any) -> None:
    assert problems(node=node) == (
        "node 'Go' is a generator: a node returns where the run goes next, it does not yield",
    )


@pytest.mark.parametrize("node", [takes_one, takes_none, takes_three, takes_named, Team.bound])
def test_a_node_takes_its_context_and_the_state(node: Any) -> None:
    (problem,) = problems(node=node)
    assert problem.startswith("node 'Go' must take two arguments, (ctx, state), not (")


@pytest.mark.parametrize("node", [7, "work", None, Nothing, Nothing()])
def test_what_is_no_function_is_no_node(node: Any) -> None:
    (problem,) = problems(node=node)
    assert "must be a function, not" in problem


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"timeout_s": None}, "timeout_s"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"timeout_s": True}, "timeout_s"),
        ({"timeout_s": 1e300}, "timeout_s"),
        ({"timeout_s": dt.timedelta(seconds=5)}, "timeout_s"),
        ({"retries": 1.5}, "retries"),
        ({"retries": None}, "retries"),
        ({"retries": True}, "retries"),
        ({"backoff_s": None}, "backoff_s"),
        ({"backoff_s": "1"}, "backoff_s"),
        ({"to": (END, 7)}, "int"),
        ({"to": (END, None)}, "None"),
        ({"to": None}, "NoneType"),
        ({"to": 7}, "int"),
        ({"on_error": 7}, "int"),
        ({"name": 7}, "int"),
        ({"name": ["Go"]}, "name"),
        ({"name": ""}, "''"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(settings: dict[str, Any], said: str) -> None:
    found = problems(**settings)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize("name", [None, 7, b"a", "", "my agent", "agent-ü", "a\n", ["a"], object()])
def test_a_name_that_cannot_travel_is_refused_whatever_it_is(name: Any) -> None:
    (problem,) = problems(name=name)
    assert problem.startswith("the agent's name must match")


@pytest.mark.parametrize("start", [None, 7, ["Go"], "Nowhere"])
def test_the_start_is_one_of_the_nodes(start: Any) -> None:
    assert len(problems(start=start)) == 1


# ------------------------------------------------------------------ states


@dataclass
class LeadsNowhere:
    x: Nowhere = None  # type: ignore[name-defined]  # noqa: F821


class LeadsNowhereEither(BaseModel):
    x: "Nowhere" = None  # type: ignore[name-defined]  # noqa: F821, UP037


@dataclass(frozen=True)
class Frozen:
    x: int = 0


class FrozenStruct(msgspec.Struct, frozen=True):
    x: int = 0


class FrozenModel(BaseModel, frozen=True):
    x: int = 0


@dataclass
class OfForeignType:
    where: Path = Path()
    how: complex = 0j


@dataclass
class DefaultsThatChange:
    when: Any = field(default_factory=lambda: dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    which: Any = field(default_factory=lambda: {1})
    share: float = float("nan")
    fine: Any = None


@dataclass
class Twice:
    n: int = 0

    def __post_init__(self) -> None:
        self.n += 1


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (Nothing(), "must be a class, not an object of type Nothing; pass the class Nothing"),
        (None, "must be a class, not an object of type NoneType"),
        ("Nothing", "must be a class"),
        (int, "the state int must be a dataclass, a msgspec.Struct, a pydantic model or a dict"),
        (LeadsNowhere, "name 'Nowhere' is not defined"),
        (LeadsNowhereEither, "Nowhere"),
        (Frozen, "the state Frozen is frozen, but nodes change their state in place"),
        (FrozenStruct, "is frozen"),
        (FrozenModel, "is frozen"),
        (DefaultsThatChange, "is not the same when it comes back from JSON: when, which, share"),
        (Twice, "is not the same when it comes back from JSON"),
    ],
)
def test_a_state_that_no_run_could_keep_is_refused(state: Any, said: str) -> None:
    (problem,) = problems(state=state)
    assert said in problem


def test_types_that_json_does_not_bring_back_are_named() -> None:
    assert set(problems(state=OfForeignType)) == {
        "the state OfForeignType has a field of type Path, which does not come back from JSON",
        "the state OfForeignType has a field of type complex, which does not come back from JSON",
    }


@dataclass
class Raises:
    def __post_init__(self) -> None:
        raise SystemExit(3)


class Evil(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyboardInterrupt

    def __instancecheck__(cls, _instance: object) -> bool:
        raise SystemExit(3)


class OfEvil(metaclass=Evil):
    pass


def test_looking_at_a_state_never_ends_the_process() -> None:
    assert problems(state=Raises) == ()  # which input it takes is its own affair
    assert problems(state=OfEvil) == (
        "the state OfEvil must be a dataclass, a msgspec.Struct, a pydantic model or a dict",
    )
    assert len(problems(state=OfEvil())) == 1


def test_everything_is_named_at_once() -> None:
    found = problems(name=None, start="Nowhere", state=Nothing(), node=takes_one, timeout_s=None, retries=-1, to="X")
    assert len(found) == 7


# ------------------------------------------------------------------ waits


@pytest.mark.parametrize("signal", ["needs approval", "", "x" * 200, None, 1, "a\0b", "\ud800", "[/bold]", "ü", b"go"])
def test_nobody_waits_for_a_signal_that_nobody_can_send(signal: Any) -> None:
    with pytest.raises(NodeFailed) as error:
        Wait(signal, then="Next")
    assert error.value.code == "bad_wait"


@pytest.mark.parametrize("signal", ["go", "order.approved", "a:b-c_d", "x" * 128])
def test_a_wait_takes_every_name_that_a_signal_can_have(signal: str) -> None:
    assert Wait(signal, then="Next").signal == signal

"""Waits and sleeps as agents declare them: what is refused before anything runs."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

from runwire import END, Agent, Context, NodeFailed, Sleep, Wait
from runwire.errors import GraphError, InvalidRequest
from runwire.model.state import StateType
from runwire.model.written_waits import written_signals


@dataclass
class Nothing:
    pass


@dataclass(frozen=True)
class Verdict:
    by: str


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    how: str = "well"
    counts: dict[str, int] = {}


class Model(BaseModel):
    by: str
    counts: dict[str, int] = {}


def agent(waits: Any, *, more: Any = (), to: Any = None) -> Agent[Nothing]:
    made = Agent("waiting", start="Ask", state=Nothing)
    given = {} if to is None else {"to": to}

    @made.node(waits=waits, **given)
    async def ask(_ctx: Context, _state: Nothing) -> None: ...

    @made.node(to="Late", waits=more)
    async def go_on(_ctx: Context, _state: Nothing) -> None: ...

    @made.node()
    async def late(_ctx: Context, _state: Nothing) -> None: ...

    return made


def problems(made: Agent[Any]) -> str:
    with pytest.raises(GraphError) as refused:
        made.check()
    return str(refused.value)


SOUND: dict[str, Any] = {
    "one": Wait("go", then="GoOn"),
    "several": Wait(any_of=["a", "b"], then="GoOn", within_s=5, on_timeout="Late", schema=Verdict),  # type: ignore[arg-type]
    "two waits": (Wait("a", then="GoOn"), Wait("b", then="Late", schema=Verdict | None)),
    "a sleep": Sleep("GoOn", for_s=3),
    "a model": Wait("a", then="GoOn", schema=Model),
    "a list": Wait("a", then="GoOn", schema=list[int]),
}


@pytest.mark.parametrize("waits", SOUND.values(), ids=SOUND)
def test_waits_that_can_be(waits: Any) -> None:
    agent(waits).check()


REFUSED: dict[str, tuple[Any, str]] = {
    "no such node": (Wait("go", then="Nowhere"), "leads to unknown node 'Nowhere'"),
    "no such node at the time-out": (
        Wait("go", then="GoOn", within_s=1, on_timeout="Nowhere"),
        "leads to unknown node 'Nowhere'",
    ),
    "no node at all": (Wait("go", then=7), "which is no node's name"),  # type: ignore[arg-type]
    "a schema that JSON does not bring back": (Wait("go", then="GoOn", schema=Path), "schema Path"),
    "no wait": (["go"], "waits for 'go', which is no Wait"),
}


@pytest.mark.parametrize(("waits", "problem"), REFUSED.values(), ids=REFUSED)
def test_waits_that_cannot_be_are_named_at_the_start(waits: Any, problem: str) -> None:
    assert problem in problems(agent(waits))


def test_a_signal_has_one_schema_in_an_agent() -> None:
    waits = Wait("go", then="GoOn", schema=Verdict)
    assert "signal 'go' has two schemas" in problems(agent(waits, more=Wait("go", then="Late", schema=Model)))
    agent(waits, more=Wait("go", then="Late", schema=Verdict)).check()


BAD: dict[str, Callable[[], object]] = {
    "a name and several": lambda: Wait("go", then="X", any_of=("a",)),
    "no name": lambda: Wait(then="X"),
    "a name that cannot be sent": lambda: Wait(any_of=("go", "go on"), then="X"),
    "text for several": lambda: Wait(any_of="go", then="X"),  # type: ignore[arg-type]
    "too many": lambda: Wait(any_of=tuple(f"s{n}" for n in range(33)), then="X"),
    "a time without a node": lambda: Wait("go", then="X", within_s=1),
    "a node without a time": lambda: Wait("go", then="X", on_timeout="Y"),
    "a negative time": lambda: Wait("go", then="X", within_s=-1, on_timeout="Y"),
    "no number": lambda: Wait("go", then="X", within_s=float("nan"), on_timeout="Y"),
    "years": lambda: Sleep("X", for_s=367 * 86_400),
    "a time of no zone": lambda: Sleep("X", until=dt.datetime(2030, 1, 1)),  # noqa: DTZ001  # the mistake
    "no time": lambda: Sleep("X"),
    "two times": lambda: Sleep("X", for_s=1, until=dt.datetime(2030, 1, 1, tzinfo=dt.UTC)),
}


@pytest.mark.parametrize("made", BAD.values(), ids=BAD)
def test_names_and_times_are_checked_where_they_are_written(made: Callable[[], object]) -> None:
    with pytest.raises(NodeFailed) as refused:
        made()
    assert (refused.value.code, refused.value.retry) == ("bad_wait", False)


def test_where_a_wait_leads_need_not_be_said_twice() -> None:
    node = agent(Wait("go", then="GoOn", within_s=1, on_timeout="Late")).nodes["Ask"]
    assert (node.to, node.waits_by_default) == (("GoOn", "Late"), True)
    node = agent(Wait("go", then="GoOn"), to=END).nodes["Ask"]
    assert (node.to, node.waits_by_default) == (("END", "GoOn"), False)


def test_a_signal_can_be_awaited_where_a_node_says_so_or_does_not_say() -> None:
    declared = agent(Wait(any_of=("a", "b"), then="GoOn"))
    assert [declared.may_wait_for(name) for name in "abc"] == [True, True, False]

    @declared.node(name="Other")
    async def other(ctx: Context, _state: Nothing) -> Wait:
        return Wait(ctx.agent, then=END)

    assert declared.may_wait_for("c")


async def returns_nothing(_ctx: Context, _state: Nothing) -> None: ...


async def written_out(ctx: Context, _state: Nothing) -> str | Wait | Sleep:
    if ctx.attempt > 1:
        return "GoOn"
    if ctx.attempt > 2:
        return Sleep("GoOn", for_s=ctx.attempt)
    return Wait(any_of=("a", "b"), then=ctx.agent, within_s=5, on_timeout="Late", schema=Verdict | None)


GO = Wait("go", then="GoOn")


def by_name(_ctx: Context, _state: Nothing) -> Wait | str:
    return GO if _ctx.attempt else "GoOn"


async def by_call(ctx: Context, _state: Nothing) -> Wait:
    return Wait(ctx.agent, then="GoOn")


async def by_variable(_ctx: Context, _state: Nothing) -> Wait:
    wait = Wait("go", then="GoOn")
    if _ctx.attempt > 1:
        wait = Wait("again", then="GoOn")
    return wait


async def by_annotation(ctx: Context, _state: Nothing) -> str:
    return ctx.agent


def answering_otherwise(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator whose function waits for other signals than the one within."""

    @functools.wraps(fn)
    async def wrapper(ctx: Context, state: Nothing) -> Wait:
        await fn(ctx, state)
        return Wait("other", then="GoOn")

    return wrapper


@pytest.mark.parametrize(
    ("fn", "signals"),
    [
        (answering_otherwise(returns_nothing), None),
        (answering_otherwise(written_out), None),
        (returns_nothing, {}),
        (written_out, dict.fromkeys("ab", Verdict | None)),
        (by_name, {"go": None}),
        (by_call, None),
        (by_variable, None),
        (by_annotation, {}),
        (lambda _ctx, _state: GO, None),
        (Strict, None),
    ],
)
def test_a_wait_that_is_returned_as_it_is_written_declares_itself(fn: Any, signals: dict[str, Any] | None) -> None:
    assert written_signals(fn) == signals


class Typed(TypedDict):
    verdicts: list[Verdict]


@dataclass
class Nest:
    inner: Verdict | None = None
    by_number: dict[int, Verdict] = field(default_factory=dict)
    typed: Typed | None = None
    lenient: Lenient | None = None


class Lenient(msgspec.Struct, rename="camel"):
    """It drops keys that it does not know, as its author wants it."""

    its_verdict: Verdict | None = None


FITS = b'{"by": "x"}'
EXTRA = b'{"by": "x", "canary": 1}'


@pytest.mark.parametrize(
    ("schema", "data", "where"),
    [
        (Verdict, EXTRA, "$"),
        (Nest, b'{"canary": 1}', "$"),
        (Nest, b'{"inner": %b}' % EXTRA, "$.inner"),
        (Nest, b'{"by_number": {"1": %b, "2": %b}}' % (FITS, EXTRA), "$.by_number[...]"),
        (Nest, b'{"typed": {"verdicts": [], "canary": 1}}', "$.typed"),
        (Nest, b'{"typed": {"verdicts": [%b, %b]}}' % (FITS, EXTRA), "$.typed[...][...]"),
        (Nest, b'{"lenient": {"itsVerdict": %b, "canary": 1}}' % EXTRA, "$.lenient.itsVerdict"),
        (list[Verdict], b"[%b]" % EXTRA, "$[...]"),
    ],
)
def test_a_key_that_a_dataclass_does_not_declare_is_refused_when_it_is_sent(
    schema: Any, data: bytes, where: str
) -> None:
    kind = StateType(schema)
    with pytest.raises(InvalidRequest) as refused:
        kind.check_signal(data)
    assert (refused.value.code, refused.value.detail) == (
        "invalid_signal",
        f"data: Object contains unknown field - at `{where}`",
    )
    kind.from_signal(data)  # one that was stored by an earlier release is taken
    kind.check_signal(data.replace(b', "canary": 1', b"").replace(b'"canary": 1', b""))


@pytest.mark.parametrize("schema", [Lenient, Model, dict, Any, Verdict | None, int | str])
def test_other_types_say_themselves_what_becomes_of_a_key(schema: Any) -> None:
    data = b"7" if schema == (int | str) else b"null" if schema == (Verdict | None) else b'{"by": "x", "more": 1}'
    StateType(schema).check_signal(data)


@pytest.mark.parametrize(
    ("schema", "data", "where"),
    [
        (Verdict, b'{"by": "x"', "refused by Verdict"),
        (Strict, b'{"canary": 1}', "Object contains unknown field"),
        (Strict, b'{"counts": {"canary": "canary"}}', "at `$.counts[...]`"),
        (Model, b'{"by": 7, "counts": {"canary": "x"}}', "string_type - at `$.by`; int_parsing - at `$.counts[...]`"),
        (Model, b'{"counts": "canary"}', "missing - at `$.by`"),
    ],
)
def test_data_that_does_not_fit_is_told_of_by_place_and_rule_alone(schema: type, data: bytes, where: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        StateType(schema).from_signal(data)
    assert refused.value.code == "invalid_signal"
    assert where in refused.value.detail
    assert "canary" not in refused.value.detail

"""States: made from an input, kept as JSON, and refused with a code where they would not come back as they were."""

from __future__ import annotations

import datetime as dt
import enum
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from runwire.errors import InvalidRequest, StateRefused
from runwire.model.state import StateType
from runwire.orchestrate.settings import DEFAULTS

LIMIT = DEFAULTS.state_max_bytes


@dataclass
class Inner:
    n: int = 3


@dataclass
class Bag:
    n: int = 5
    x: Any = None
    names: list[str] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    more: dict[str, Inner] = field(default_factory=dict)


class Tight(msgspec.Struct):
    n: int = 5
    x: Any = None


class Deep(BaseModel):
    at: dt.datetime | None = None


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int = 5
    x: Any = None
    alias: int = Field(1, alias="anAlias")
    deep: Deep | None = None
    _seen: int = PrivateAttr(0)

    @property
    def seen(self) -> int:
        return self._seen

    def see(self, number: int) -> None:
        self._seen = number


@pydantic_dataclass
class ModelledClass:
    n: int = 5
    x: Any = None


class Color(enum.StrEnum):
    RED = "red"


def refused(state_type: StateType[Any], state: object, *, at_most: int = LIMIT) -> str:
    with pytest.raises(StateRefused) as error:
        state_type.save(state, at_most=at_most)
    return error.value.code


# ------------------------------------------------------------------ what is kept


def test_fields_left_at_their_default_are_kept_with_their_value_at_every_depth() -> None:
    bags = StateType(Bag)
    data, _ = bags.save(bags.from_input(b'{"more": {"k": {}}}'), at_most=LIMIT)
    assert msgspec.json.decode(data) == {
        "n": 5,
        "x": None,
        "names": [],
        "inner": {"n": 3},
        "more": {"k": {"n": 3}},
    }


@pytest.mark.parametrize("cls", [Bag, Tight, Model, ModelledClass])
def test_every_kind_of_state_comes_back_as_it_was_left(cls: type[Any]) -> None:
    kind: StateType[Any] = StateType(cls)
    state = kind.from_input(b'{"n": 7}')
    state.x = {"a": [1, None, 2.5, "b"]}
    data, back = kind.save(state, at_most=LIMIT)
    assert back == state
    assert back is not state
    assert kind.restore(data) == state


def test_a_pydantic_model_is_read_by_its_aliases_and_kept_whole() -> None:
    models = StateType(Model)
    state = models.from_input(b'{"anAlias": 4}')
    state.deep = Deep(at=dt.datetime(2026, 3, 29, tzinfo=dt.UTC))
    data, back = models.save(state, at_most=LIMIT)
    assert (back.alias, back.deep) == (4, state.deep)
    assert models.restore(data) == back


def test_private_attributes_of_a_model_are_no_part_of_the_state() -> None:
    models = StateType(Model)
    state = models.from_input(b"{}")
    state.see(9)
    _, back = models.save(state, at_most=LIMIT)
    assert back.seen == 0


@pytest.mark.parametrize("value", [2**70, "a\0b", "ü", {"k": [1.5]}, Color.RED, True, -0.0])
def test_a_value_that_json_brings_back_is_kept(value: Any) -> None:
    bags = StateType(Bag)
    assert bags.save(Bag(x=value), at_most=LIMIT)[1].x == value


# ------------------------------------------------------------------ what is refused


class Raising:
    """Raises whatever is done with it."""

    def __repr__(self) -> str:
        raise SystemExit(3)

    __str__ = __repr__

    def __eq__(self, _other: object) -> bool:
        raise KeyboardInterrupt

    def __hash__(self) -> int:
        raise GeneratorExit

    def __bool__(self) -> bool:
        raise SystemExit(4)


def cycle() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


CHANGED_BY_JSON = {
    "a set": {1, 2},
    "a tuple": (1, 2),
    "a date": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "keys that are numbers": {1: "a"},
    "bytes": b"bytes",
    "no number": float("nan"),
    "no end": float("inf"),
    "half a character": "\ud800",
    "a number nobody writes": 10**5000,
    "an object": object(),
    "an object that raises": Raising(),
    "a list in itself": cycle(),
    "a deep list": nested(2000),
    "a function": print,
}


@pytest.mark.parametrize("value", CHANGED_BY_JSON)
@pytest.mark.parametrize("cls", [Bag, Tight, ModelledClass])
def test_a_value_that_json_does_not_bring_back_is_a_bad_state(cls: type[Any], value: str) -> None:
    kind: StateType[Any] = StateType(cls)
    state = kind.from_input(b"{}")
    state.x = CHANGED_BY_JSON[value]
    assert refused(kind, state) == "bad_state"


@pytest.mark.parametrize("other", [None, 7, "text", Inner(), object(), Raising()], ids=range(6))
def test_an_object_that_is_no_state_is_a_bad_state(other: Any) -> None:
    assert refused(StateType(Bag), other) == "bad_state"


def test_a_state_may_have_so_many_bytes_and_not_one_more() -> None:
    bags = StateType(Bag)
    size = len(bags.save(Bag(x="m" * 1000), at_most=LIMIT)[0])
    assert bags.save(Bag(x="m" * 1000), at_most=size)
    assert refused(bags, Bag(x="m" * 1000), at_most=size - 1) == "state_too_large"


HUGE: dict[str, Callable[[], Any]] = {
    "one text, often": lambda: ["m" * 1000] * 10**7,
    "a list": lambda: [None] * 10**7,
    "a text": lambda: {"k": "m" * 10**8},
}


@pytest.mark.parametrize("huge", HUGE)
def test_a_huge_state_is_refused_without_being_made(huge: str) -> None:
    state = Bag(x=HUGE[huge]())
    before = _peak_kib()
    assert refused(StateType(Bag), state) == "state_too_large"
    assert _peak_kib() - before < 20_000


def test_what_grows_when_it_is_written_out_is_refused_too() -> None:
    value: Any = "ha" * 10
    for _ in range(30):  # a billion of them, in thirty lists
        value = [value, value]
    assert refused(StateType(Bag), Bag(x=value)) == "state_too_large"


# ------------------------------------------------------------------ what an input may make of it


@dataclass
class Checked:
    how: str = ""

    def __post_init__(self) -> None:
        if self.how == "exit":
            sys.exit("a secret")
        if self.how == "interrupt":
            raise KeyboardInterrupt("a secret")
        if self.how == "generator":
            raise GeneratorExit("a secret")
        if self.how == "group":
            raise BaseExceptionGroup("a secret", [SystemExit(1)])
        if self.how == "value":
            raise ValueError("a secret")
        if self.how == "recursion":
            self.__post_init__()


class CheckedModel(BaseModel):
    how: str = ""

    @field_validator("how")
    @classmethod
    def check(cls, how: str) -> str:
        Checked(how)
        return how


@pytest.mark.parametrize("how", ["exit", "interrupt", "generator", "group", "value", "recursion"])
@pytest.mark.parametrize("cls", [Checked, CheckedModel])
def test_whatever_a_state_raises_the_input_is_refused_without_its_text(cls: type[Any], how: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        StateType(cls).from_input(msgspec.json.encode({"how": how}))
    assert error.value.code == "invalid_input"
    assert "secret" not in error.value.detail
    assert StateType(cls).restore(msgspec.json.encode({"how": how})) is None


def test_a_model_names_the_fields_that_do_not_fit_and_none_of_what_was_in_them() -> None:
    with pytest.raises(InvalidRequest) as error:
        StateType(Model).from_input(b'{"n": "a secret", "unknown": "a secret"}')
    assert error.value.detail == "input: n: int_parsing; unknown: extra_forbidden"


def _peak_kib() -> int:
    import resource  # noqa: PLC0415

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

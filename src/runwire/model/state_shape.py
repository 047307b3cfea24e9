"""Walks over a state's values, whatever its author made of them: how large, whether two are the same, what is missing.

Every function here may raise anything: it looks at objects of user code. Callers contain that.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, Final

import msgspec

DEPTH_MAX: Final = 900
"""Levels of nesting a state may have; JSON encoders give up a little deeper."""

_PLAIN: Final = frozenset({int, float, bool, type(None)})


def exceeds(state: object, at_most: int) -> bool:
    """Whether the state is surely longer than `at_most` bytes of JSON. Stops early for huge ones; encodes nothing.

    Raises RecursionError for one that is nested too deeply, or contains itself.
    """
    seen = 0
    level: list[Any] = [state]
    for _ in range(DEPTH_MAX):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, (str, bytes, bytearray)):
                seen += len(value)
            elif (length := _length_of(value)) is not None:
                seen += 2 * length
                if seen > at_most:
                    return True
                inner += [part for part in parts_of(value) if type(part) not in _PLAIN]
            if seen > at_most:
                return True
        if not inner:
            return False
        level = inner
    raise RecursionError


def deep(value: object, *, limit: int) -> bool:
    """Whether JSON is nested more than `limit` levels."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(value, (dict, list)) for value in level)


def same(one: Any, other: Any) -> bool:
    """Whether both hold the same values. Classes that compare by identity are looked into."""
    if type(one) is not type(other):
        return type(one) in _PLAIN and type(other) in _PLAIN and bool(one == other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if (names := field_names(type(one))) is not None:
        return all(same(getattr(one, name, None), getattr(other, name, None)) for name in names)
    return bool(one == other)


def complete(value: Any) -> None:
    """Gives decoded dataclasses the defaults that were left at their class: what an instance lacks is not encoded."""
    level = [value]
    while level:
        for one in level:
            own = getattr(one, "__dict__", None)
            if own is not None and dataclasses.is_dataclass(one):
                for name in field_names(type(one)) or ():
                    if name not in own and hasattr(one, name):
                        own[name] = getattr(one, name)
        level = [
            part
            for one in level
            if _length_of(one) is not None
            for part in parts_of(one)
            if type(part) not in _PLAIN and type(part) is not str
        ]


def undeclared(given: Any, made: Any) -> str | None:
    """Where an object of JSON has a key that the class does not declare whose instance was `made` of it; None where
    none has. A Struct and a pydantic model say themselves what becomes of such keys. Other classes drop them.

    The place is as msgspec writes it, and names declared fields only.
    """
    todo = [(given, made, "$")]
    while todo:
        one, of, place = todo.pop()
        if isinstance(one, list) and isinstance(of, (list, tuple)):
            todo += [(inner, part, f"{place}[...]") for inner, part in zip(one, of, strict=False)]
        elif not isinstance(one, dict):
            continue
        elif isinstance(of, dict):
            if len(one) != len(of):  # of a TypedDict
                return place
            todo += [(inner, part, f"{place}[...]") for inner, part in zip(one.values(), of.values(), strict=True)]
        elif isinstance(of, msgspec.Struct):
            names = zip(of.__struct_encode_fields__, of.__struct_fields__, strict=True)
            todo += [(one[key], getattr(of, name), f"{place}.{key}") for key, name in names if key in one]
        elif not hasattr(of, "__pydantic_fields__") and (declared := field_names(type(of))) is not None:
            if one.keys() - set(declared):
                return place
            todo += [(inner, getattr(of, name), f"{place}.{name}") for name, inner in one.items()]
    return None


def field_names(of: Any) -> tuple[str, ...] | None:
    """The fields of a dataclass, Struct, pydantic model or attrs class; None for any other."""
    return _field_names(of)


@lru_cache(maxsize=1024)
def _field_names(of: Any) -> tuple[str, ...] | None:
    names: Any
    if issubclass(of, msgspec.Struct):
        return tuple(of.__struct_fields__)
    if (names := getattr(of, "__dataclass_fields__", None)) is not None:
        return tuple(field.name for field in dataclasses.fields(of))
    if (names := getattr(of, "__pydantic_fields__", None)) is not None:
        return tuple(names)
    if (names := getattr(of, "__attrs_attrs__", None)) is not None:
        return tuple(attribute.name for attribute in names)
    return None


def parts_of(value: Any) -> list[Any]:
    """The values directly inside a container or an object with fields."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    names = field_names(type(value)) or ()
    parts = [getattr(value, name, None) for name in names]
    extra = getattr(value, "__pydantic_extra__", None)
    return [*parts, *extra.values()] if isinstance(extra, dict) else parts


def _length_of(value: Any) -> int | None:
    """How many parts a container has; None for what is none."""
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return len(value)
    names = field_names(type(value))
    return None if names is None else len(names)

"""The signals of waits that a node's function returns as they are written, for nodes that declare none.

`return Wait("approved", then="Ship", schema=Decision)` says all that is needed to check a signal when it is sent. So
the returns of the function are read: a node's name, a Wait or a Sleep written out, or a constant that holds one. If one
is anything else, nothing is known of the function. Nothing of it is called.

Nothing is known of a function that wraps another (`functools.wraps`) either: its annotations are those of the other.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from runwire.model.waits import Sleep, Wait

_FIELDS: Final = ("signal", "then", "any_of", "within_s", "on_timeout", "schema")
_NO_WAITS: Final = (None, str, "None", "str")
"""Annotations of functions that return no waits."""
_PLAIN: Final = (
    ast.Name,
    ast.Attribute,
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.BinOp,
    ast.BitOr,
    ast.Subscript,
    ast.Load,
)


class _Unreadable(Exception):
    """A return whose result is not written there."""


def written_signals(fn: Any) -> Mapping[str, Any] | None:
    """The schema, or None, of each signal for which the function may wait. None for a function that does not say."""
    if hasattr(fn, "__wrapped__"):  # the source would be that of the function within
        return None
    try:
        read = _read(fn)
    except TypeError:  # a callable object that cannot be hashed
        read = None
    says = getattr(fn, "__annotations__", {}).get("return", ...)
    return {} if read is None and any(says is one or says == one for one in _NO_WAITS) else read


@lru_cache(maxsize=4096)
def _read(fn: Any) -> Mapping[str, Any] | None:
    signals: dict[str, Any] = {}
    try:
        names = _names(fn)
        for returned in _returns(ast.parse(textwrap.dedent(inspect.getsource(fn))).body[0]):
            for wait in _waits(returned, names):
                for name, schema in wait.items():
                    if signals.setdefault(name, schema) is not schema:
                        return None
    except Exception:  # noqa: BLE001  # no source, no function, names that are not bound: it does not say
        return None
    return signals


def _names(fn: Any) -> dict[str, Any]:
    found = inspect.getclosurevars(fn)
    names = {**found.builtins, **found.globals, **found.nonlocals}
    return {name: value for name, value in names.items() if name not in fn.__code__.co_varnames}


def _returns(function: ast.stmt) -> Iterator[ast.expr | None]:
    """Of the function itself, not of those within it."""
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise _Unreadable
    level: list[ast.AST] = list(function.body)
    while level:
        for node in level:
            if isinstance(node, ast.Return):
                yield node.value
        level = [
            inner
            for node in level
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))
            for inner in ast.iter_child_nodes(node)
        ]


def _waits(returned: ast.expr | None, names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if returned is None:
        return
    if isinstance(returned, ast.IfExp):
        yield from _waits(returned.body, names)
        yield from _waits(returned.orelse, names)
        return
    if isinstance(returned, ast.Call):
        kind = _value(returned.func, names)
        if kind is Wait:
            yield _signals(returned, names)
        elif kind is not Sleep:
            raise _Unreadable
        return
    value = _value(returned, names)
    if isinstance(value, Wait):
        yield dict.fromkeys(value.names, value.schema)
    elif value is not None and not isinstance(value, (str, Sleep)):
        raise _Unreadable


def _signals(call: ast.Call, names: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str | None, ast.expr] = dict(zip(_FIELDS, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords}
    signal, any_of, schema = (
        None if (written := given.get(field)) is None else _value(written, names)
        for field in ("signal", "any_of", "schema")
    )
    if None in given or (signal is None and any_of is None):
        raise _Unreadable
    return {str(name): schema for name in (any_of or (signal,))}


def _value(written: ast.expr, names: Mapping[str, Any]) -> Any:
    """Of an expression without calls, whose names are bound outside of the function."""
    for node in ast.walk(written):
        if not isinstance(node, _PLAIN) or (isinstance(node, ast.Name) and node.id not in names):
            raise _Unreadable
    compiled = compile(ast.Expression(written), "<wait>", "eval")
    return eval(compiled, {"__builtins__": {}}, dict(names))  # noqa: S307  # the agent's own source, and no call in it

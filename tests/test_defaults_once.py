"""A default is written once, in its group of settings. Other code derives it from there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import runwire
from runwire.settings import Settings

SOURCES = Path(runwire.__file__).parent
NEVER_TOLD_APART = (0, 1, True, None, "", ())
"""Values that so many things begin with that an equal one says nothing."""

COINCIDENCES = {
    ("model/graph.py", "DEFAULT_TIMEOUT_S"): "a node's",
    ("server/auth/jwks.py", "MAX_BYTES"): "a JWK Set's",
    ("client/calls.py", "_BACKOFF_MAX_S"): "the client knows no settings",
    ("db/health.py", "timeout_s"): "a check by hand",
    ("stream/limits.py", "PAGE_EVENTS_MAX"): "one read of a stream",
    ("stream/many/many_streams.py", "COLLECT_S"): "old checkpoints",
    ("archive/object_store.py", "_PART_BYTES"): "one read of the archive",
    ("cli/canary.py", "timeout"): "the patience of a user",
}
"""Values that mean something else than the setting that they look like."""


def repeated(source: str) -> set[tuple[str, str]]:
    """Defaults of parameters, fields and constants that a setting has, too: its name has all words of theirs."""
    return {
        (name, setting)
        for name, value in written(ast.parse(source))
        for setting, field in Settings.model_fields.items()
        if field.default == value and words(name) <= words(setting)
    }


def words(name: str) -> set[str]:
    return set(name.lower().strip("_").split("_")) - {"default"}


def written(tree: ast.Module) -> Iterator[tuple[str, object]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield from literal(node.target.id, node.value)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield from literal(node.targets[0].id, node.value)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            placed = [*node.args.posonlyargs, *node.args.args]
            values = [*([None] * (len(placed) - len(node.args.defaults))), *node.args.defaults, *node.args.kw_defaults]
            for argument, value in zip([*placed, *node.args.kwonlyargs], values, strict=True):
                if value is not None:
                    yield from literal(argument.arg, value)


def literal(name: str, value: ast.expr) -> Iterator[tuple[str, object]]:
    """The value of a literal, and of a product or a power of literals."""
    allowed = (ast.Constant, ast.BinOp, ast.Mult, ast.Pow, ast.LShift, ast.Div)
    if all(isinstance(node, allowed) for node in ast.walk(value)):
        found = eval(compile(ast.Expression(value), "literal", "eval"))  # noqa: S307  # constants and products only
        if found not in NEVER_TOLD_APART:
            yield name, found


@pytest.mark.parametrize(
    "source",
    [
        "def make(*, lease_s: float = 30.0): ...",
        "def make(after_days=30, batch_runs=20_000): ...",
        "class Limits:\n    bytes: int = 16 * 1024 * 1024\n",
        "STATE_MAX_BYTES = 1024 * 1024",
        "DEFAULT_RATIO: Final = 0.05",
    ],
)
def test_a_repeated_default_is_seen(source: str) -> None:
    assert repeated(source)


@pytest.mark.parametrize("source", ["def make(lease_s=DEFAULTS.lease_s): ...", "def make(lease_s=31.0): ...", "N = 1"])
def test_a_derived_or_other_default_is_none(source: str) -> None:
    assert not repeated(source)


def test_every_default_of_a_setting_is_written_once() -> None:
    found = {
        (file.relative_to(SOURCES).as_posix(), name)
        for file in SOURCES.rglob("*.py")
        if file.name != "settings.py"
        for name, _ in repeated(file.read_text())
    }
    assert found == set(COINCIDENCES), "take it from the DEFAULTS of the group of settings, or say what it means"

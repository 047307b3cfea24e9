"""The reference of the Python API is whole: every public name is in it, with what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import runwire
from docs.pages import DOCS, headings
from runwire import client, errors
from runwire.errors import RunwireError
from scripts import script

PAGE = DOCS / "reference" / "python.md"
PUBLIC = [name for name in dir(runwire) if not name.startswith("__")]


def test_every_public_name_has_a_heading() -> None:
    assert {text for level, text, _ in headings(PAGE) if level == 3} - {"More errors"} == set(PUBLIC)


def test_every_public_method_has_a_heading() -> None:
    found = {text for level, text, _ in headings(PAGE) if level == 4}
    for owner in (runwire.Agent, runwire.Client, runwire.Context, runwire.RunStream):
        assert {f"{owner.__name__}.{name}" for name in methods_of(owner)} <= found


def test_every_error_is_described() -> None:
    text = PAGE.read_text()
    for name in errors.__all__:
        error = getattr(errors, name)
        if isinstance(error, type) and issubclass(error, RunwireError):
            assert f"### {name}\n" in text or f"| `{name}` |" in text, name


def test_what_calls_return_and_raise_is_public() -> None:
    """A reader annotates a variable with `runwire.RunView`, and never imports a module of runwire's inside."""
    assert set(client.__all__) - script("python_api").OF_THE_WIRE <= set(PUBLIC)
    for name in client.__all__:
        if name in PUBLIC:
            assert getattr(runwire, name) is getattr(client, name)


def test_a_value_that_a_public_method_returns_is_of_a_public_type() -> None:
    for owner in (runwire.Client, runwire.Context, runwire.RunStream):
        for name, method in methods_of(owner).items():
            for kind in classes_in(get_type_hints(method).get("return")):
                assert kind.__name__ in PUBLIC, f"{owner.__name__}.{name}"


def methods_of(owner: type) -> dict[str, Any]:
    """The public methods, those of its bases, too."""
    names = (name for name in dir(owner) if not name.startswith("_"))
    return {name: method for name in names if callable(method := getattr(owner, name))}


def classes_in(hint: object) -> Iterator[type]:
    """The classes of runwire's own in a type."""
    for part in get_args(hint):
        yield from classes_in(part)
    if isinstance(hint, type) and hint.__module__.startswith("runwire."):
        yield hint

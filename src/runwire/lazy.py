"""Packages whose names are imported when they are first asked for.

`runwire.settings` has the settings of every stage, and so imports every stage's package. Reading settings must not load
PostgreSQL's client, an HTTP stack and telemetry. A package declares its names once, for type checkers and for this:

    if TYPE_CHECKING:
        from runwire.db.database import Database
    else:
        __getattr__ = lazily(__name__)
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import InspectLoader


def lazily(package: str) -> Callable[[str], Any]:
    """A `__getattr__` for the package, which imports the module of a name as its TYPE_CHECKING block says."""

    @cache
    def modules() -> dict[str, str]:
        spec = find_spec(package)
        source = cast("InspectLoader", spec.loader).get_source(package) if spec is not None else None
        return dict(_declared(ast.parse(source or "")))

    def found(name: str) -> Any:
        if name.startswith("_") or name not in modules():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules()[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return found


def _declared(tree: ast.Module) -> list[tuple[str, str]]:
    """(name, module) of the imports for type checkers."""
    return [
        (alias.name, imported.module)
        for block in tree.body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for imported in block.body
        if isinstance(imported, ast.ImportFrom) and imported.module is not None
        for alias in imported.names
    ]

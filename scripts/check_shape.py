"""The shape of the source: how many modules, which imports between packages, and the largest classes.

python scripts/check_shape.py            refuses modules and classes above the limits
python scripts/check_shape.py --report   prints the counts, too; --source DIR counts another checkout
"""  # noqa: INP001  # a script

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = "runwire"
MODULE_LINES_MAX: Final = 400
CLASS_LINES_MAX: Final = 250
SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """A module or a class, with its lines. `name` says where it is."""

    name: str
    lines: int


@dataclass(frozen=True, slots=True)
class Shape:
    modules: tuple[Measured, ...]
    classes: tuple[Measured, ...]
    arrows: frozenset[tuple[str, str]]
    """Packages of which one imports the other. Modules beside the packages count as packages."""


def shape_of(source: Path) -> Shape:
    """The shape of the package in `source`."""
    modules, classes, arrows = [], [], set()
    for path in sorted((source / PACKAGE).rglob("*.py")):
        name = path.relative_to(source).as_posix()
        text = path.read_text()
        tree = ast.parse(text)
        modules.append(Measured(name, len(text.splitlines())))
        classes += [
            Measured(f"{name}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        ]
        own = _package(path.relative_to(source).with_suffix("").parts)
        arrows |= {(own, other) for other in _imported(tree) if other != own}
    return Shape(_largest_first(modules), _largest_first(classes), frozenset(arrows))


def excesses(shape: Shape) -> list[str]:
    """One sentence for each module or class above its limit."""
    return [
        f"{one.name} has {one.lines} lines, more than {limit}: split it by reason"
        for found, limit in ((shape.modules, MODULE_LINES_MAX), (shape.classes, CLASS_LINES_MAX))
        for one in found
        if one.lines > limit
    ]


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE and len(parts) > 1:
                yield _package(tuple(parts))


def _package(parts: tuple[str, ...]) -> str:
    return parts[1] if len(parts) > 1 else parts[0]


def _largest_first(found: list[Measured]) -> tuple[Measured, ...]:
    return tuple(sorted(found, key=lambda one: -one.lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="print the counts")
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="the folder with the package")
    asked = parser.parse_args()
    shape = shape_of(asked.source)
    if asked.report:
        sys.stdout.write(f"modules: {len(shape.modules)}, {sum(one.lines for one in shape.modules)} lines\n")
        sys.stdout.write(f"imports between packages: {len(shape.arrows)}\n")
        for title, found in (("largest modules", shape.modules), ("largest classes", shape.classes)):
            sys.stdout.write(f"{title}: " + ", ".join(f"{one.name} {one.lines}" for one in found[:SHOWN]) + "\n")
    problems = excesses(shape)
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())

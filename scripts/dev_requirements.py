"""Prints the dependency group `dev` of pyproject.toml, one requirement a line, for installers without groups."""  # noqa: INP001

from __future__ import annotations

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
print("\n".join(project["dependency-groups"]["dev"]))  # noqa: T201  # its output is the result

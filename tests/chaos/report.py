"""Progress messages, and the generated parts of docs/reliability.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reliability.md"
END: Final = "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Arguments:
    """The options of the campaign. `at_once`: external runs kept going; `report`: write docs/reliability.md."""

    minutes: float
    seed: int
    at_once: int
    report: bool


def arguments(program: str, *, about: str | None, minutes: float, at_once: int) -> Arguments:
    """Of the command line; ends the program when they are wrong, or when it is not root's."""
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("--minutes", type=float, default=minutes, help="how long faults go on")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the order of the faults")
    parser.add_argument("--at-once", type=int, default=at_once, help="external runs kept going")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: a file system that can be filled up has to be mounted")
    return Arguments(asked.minutes, asked.seed, asked.at_once, asked.report)


def tell_from(began: float) -> Callable[[str], None]:
    """Prints lines with the seconds since `began`."""

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)  # noqa: T201  # progress

    return tell


def put(text: str, *, begin: str) -> None:
    """Writes `text` between `begin` and the next end mark of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def commit() -> str:
    """The short hash of the commit that is measured."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()

"""What is told on the way, and the generated parts of docs/reliability.md."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reliability.md"
END: Final = "<!-- end -->"


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

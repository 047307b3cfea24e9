"""Fuzzes a target: `python -m fuzz TARGET [libFuzzer options]`; `make fuzz` does all of them.

`python -m fuzz - [libFuzzer options]` reads targets from stdin, one a line, and writes the exit code of each to stdout:
the imports, which take longest, are made once.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["runwire", "fuzz"]):
    from fuzz.targets import SEEDS, TARGETS


def fuzz(name: str, options: list[str]) -> None:
    """Ends the process."""
    with tempfile.TemporaryDirectory(prefix="runwire-fuzz-") as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, folder], TARGETS[name])
        atheris.Fuzz()


def main() -> None:
    name, *options = sys.argv[1:]
    if name != "-":
        fuzz(name, options)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            fuzz(line.strip(), options)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201  # the result


if __name__ == "__main__":
    main()

"""Are the random histories of content worth something? Each of these defects, one at a time, must make them fail.

`make invariants-mutation`, or `MUTANTS="shifted-resume early-end"` for some, EXAMPLES=60 histories for each, SEED=...
A defect is a change of the source in a copy of the package; the tests import the copy. Exits with 1 when the histories
pass with a defect, or fail without one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TEST: Final = "tests/invariants/test_bytes.py"
EXAMPLES: Final = "60"
HEALTHY: Final = "8"
TIMEOUT_S: Final = 1800.0
FAILED: Final = "FAILED tests/invariants/test_bytes.py::test_every_history_of_content_shows_each_byte_once"
HISTORY: Final = re.compile(r"Failing test case|Falsifying example")
"""Hypothesis says so of a history that fails. Another failure proves nothing."""
REASON: Final = re.compile(r"^(?:E|[ |]+\|) +(assert .*|[\w.]*(?:Error|Unavailable)\b.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect: `before` is in the file once, and becomes `after`. `what` it does to a client."""

    name: str
    what: str
    file: str
    before: str
    after: str

    def infect(self, package: Path) -> None:
        """Puts the defect into a copy of the package. Raises ValueError when its place is not there, or not unique."""
        path = package / self.file
        source = path.read_text()
        if source.count(self.before) != 1:
            raise ValueError(f"{self.name}: {self.file} has {source.count(self.before)} of {self.before!r}")
        path.write_text(source.replace(self.before, self.after))


MUTANTS: Final = (
    Mutant(
        "shifted-resume",
        "a client that resumes amid a part misses a byte",
        "stream/mixed/reader.py",
        "offset=at, limit=PART_BYTES)",
        "offset=at + begun, limit=PART_BYTES)",
    ),
    Mutant(
        "repeated-bytes",
        "bytes that a repair has told, and that news tell again, come twice",
        "stream/mixed/head.py",
        "grown.carry + written.data[had - written.at :]",
        "grown.carry + written.data",
    ),
    Mutant(
        "ignored-gap",
        "bytes after a lost hint are told as if they followed",
        "stream/mixed/head.py",
        "if written.at > had:",
        "if written.at > had + (1 << 40):",
    ),
    Mutant(
        "lost-reset",
        "a client that has some of an attempt is not told that another has begun",
        "stream/mixed/reader.py",
        "frames.reset(part)",
        "pass",
    ),
    Mutant(
        "cursor-behind",
        "the id of a frame is that of a byte before its end",
        "stream/mixed/head.py",
        "self._places[part.n] = (part.attempt, grown.told)",
        "self._places[part.n] = (part.attempt, grown.told - 1)",
    ),
    Mutant(
        "early-end",
        "the event that ends a part comes before its last bytes, where these are told of late",
        "stream/mixed/reader.py",
        "upto = min(upto, part.ended_seq - 1)",
        "pass",
    ),
    Mutant(
        "early-bytes",
        "bytes come before the event that opens their part",
        "stream/mixed/reader.py",
        "if part.opened_seq > cursor.seq:",
        "if part.opened_seq > position.published:",
    ),
    Mutant(
        "short-artifact",
        "a sealed part lacks its last byte",
        "content/parts.py",
        "            yield read.data\n",
        "            yield read.data[:-1] if read.up_to_date else read.data\n",
    ),
    Mutant(
        "stored-twice",
        "a write whose answer was lost is stored again when it is repeated",
        "content/parts.sql",
        "AND (w.at IS NULL OR p.size = w.at)",
        "AND (w.at IS NULL OR p.size >= w.at)",
    ),
    Mutant(
        "sealed-failure",
        "a part whose node has failed is sealed",
        "orchestrate/node_parts.py",
        "sealed = self._complete and not failed",
        "sealed = self._complete or failed",
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the histories fail. `said`: why, or else the end of what the tests said."""

    died: bool
    said: str


def histories(package: Path | None, *, examples: str) -> Verdict:
    """Runs the random histories of content against the copy of the package; None: against the one under test."""
    path = os.pathsep.join(([str(package.parent)] if package is not None else []) + [str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "RUNWIRE_BYTES_EXAMPLES": examples, "RUNWIRE_BYTES_SHRINK": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:randomly", "-p", "no:cacheprovider", TEST]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    said = done.stdout + done.stderr
    died = done.returncode == 1 and FAILED in said and HISTORY.search(said) is not None
    reasons = REASON.findall(said)
    return Verdict(died, reasons[0][:150] if died and reasons else said[-2000:])


def main(asked: Sequence[str]) -> int:
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := sorted(set(asked) - known.keys()):
        sys.stderr.write(f"no such mutant: {', '.join(unknown)}\n")
        return 2
    examples = os.environ.get("EXAMPLES") or EXAMPLES
    began = time.monotonic()
    if (healthy := histories(None, examples=HEALTHY)).died or " passed" not in healthy.said:
        sys.stdout.write(f"the histories fail without a defect:\n{healthy.said}\n")
        return 1
    survivors = 0
    for name in asked or known:
        at = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "runwire"
            shutil.copytree(ROOT / "src" / "runwire", package, ignore=shutil.ignore_patterns("__pycache__"))
            known[name].infect(package)
            verdict = histories(package, examples=examples)
        took_s = time.monotonic() - at
        said = "dies" if verdict.died else "LIVES"
        sys.stdout.write(f"{name:16} {took_s:6.1f} s  {said}: {known[name].what}\n    {verdict.said}\n")
        sys.stdout.flush()
        survivors += not verdict.died
    sys.stdout.write(f"-- {time.monotonic() - began:.0f} s, {survivors} of {len(asked or known)} live\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

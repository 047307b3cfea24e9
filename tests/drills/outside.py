"""A canary of a stage: `runwire canary` as a process of its own, which Prometheus scrapes like the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from crash.fleet import Member, free_port

EVERY_S: Final = 0.5
TIMEOUT_S: Final = 5.0


class CanaryMember(Member):
    """Its rounds are lines of its log."""

    starts_with = "canary_started"

    def __init__(self, name: str, *, url: str, logs: Path) -> None:
        self.metrics_port = free_port()
        timing = ["--every", str(EVERY_S), "--timeout", str(TIMEOUT_S)]
        super().__init__(
            name,
            logs=logs,
            environment={},
            arguments=["--json", "--url", url, "--metrics-port", str(self.metrics_port), *timing],
        )

    def command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "runwire", "canary", *arguments]

    @property
    def rounds(self) -> list[bool]:
        """Whether each round so far was good."""
        return [bool(line["good"]) for line in self.lines() if line.get("event") == "round"]

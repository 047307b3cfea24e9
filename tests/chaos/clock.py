"""A clock that can be turned for one process: libfaketime, told through a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def library() -> Path | None:
    """libfaketime of this system (Debian: package libfaketime)."""
    return next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


class Clock:
    """The wall clock of whoever runs in `environment`; the monotonic one is left alone, as in life."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ahead_s = 0
        self.turn(0)

    def turn(self, by_s: int) -> None:
        """Forward, or back with a negative number; adds up."""
        self.ahead_s += by_s
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{self.ahead_s:+d}\n")
        fresh.chmod(0o644)
        fresh.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        found = library()
        assert found is not None, "libfaketime is not installed"
        return {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }

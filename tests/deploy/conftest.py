"""The Datadog Agent's own base check, in an environment of its own: it pins what it needs, and so do we."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from filelock import FileLock

WANTED: Final = "datadog-checks-base[deps]==38.5.0"
CACHE: Final = Path(__file__).parents[2] / ".cache" / "datadog"


@pytest.fixture(scope="session")
def datadog_python() -> Path:
    """An interpreter that has WANTED; installed once for all who run tests here."""
    CACHE.mkdir(parents=True, exist_ok=True)
    python = CACHE / "venv" / "bin" / "python"
    installed = CACHE / "installed"
    with FileLock(CACHE / "install.lock"):
        if not (installed.exists() and installed.read_text() == f"{WANTED} {sys.version}"):
            _run(sys.executable, "-m", "venv", "--clear", str(CACHE / "venv"))
            _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", WANTED)
            installed.write_text(f"{WANTED} {sys.version}")
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr

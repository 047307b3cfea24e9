"""Packages of Python that tests need, in environments of their own: they pin what they need. Installed once for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from filelock import FileLock

CACHE = Path(__file__).parents[1] / ".cache"


def python_with(*wanted: str, into: str, within_s: float = 100) -> Path:
    """An interpreter that has the packages, each named with its exact version.

    A caller that comes while another installs waits for it.
    """
    folder = CACHE / into
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    installed, named = folder / "installed", f"{' '.join(wanted)} {sys.version}"
    with FileLock(folder / "install.lock"):
        if not (installed.exists() and installed.read_text() == named):
            _run(sys.executable, "-m", "venv", "--clear", str(folder / "venv"), within_s=within_s)
            options = ("--quiet", "--disable-pip-version-check", "--no-compile")
            _run(str(python), "-m", "pip", "install", *options, *wanted, within_s=within_s)
            installed.write_text(named)
    return python


def _run(*command: str, within_s: float) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within_s)
    assert done.returncode == 0, done.stdout + done.stderr

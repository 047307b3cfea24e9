"""Packages of Node.js that tests need: installed once for all, outside the source, at the versions a manifest pins."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

CACHE = Path(__file__).parents[1] / ".cache"


def program(name: str, *aliases: str) -> str:
    """The path of a program that the system has, under one of its names; or a skipped test."""
    for known_as in (name, *aliases):
        found = shutil.which(known_as)
        if found is not None:
            return found
    pytest.skip(f"needs {name}")


def installed(
    manifest: Path, *, into: str, also: tuple[Path, ...] = (), options: tuple[str, ...] = (), within_s: float = 90
) -> Path:
    """The folder where the packages of `manifest` (a package.json of exact versions) can be imported.

    Copies of the files `also` are put there, anew each time. A caller that comes while another installs waits for it.
    """
    npm = program("npm")
    folder = CACHE / into
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(manifest.read_text())["dependencies"]
    with FileLock(folder / "install.lock"):
        for file in (manifest, *also):
            shutil.copy(file, folder)
        if any(_version(folder, package) != version for package, version in wanted.items()):
            done = subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", *options],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=within_s,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _version(folder: Path, package: str) -> str | None:
    manifest = folder / "node_modules" / package / "package.json"
    if not manifest.exists():
        return None
    version: str = json.loads(manifest.read_text())["version"]
    return version

"""The packages of peers, at exact versions, installed apart from everything else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "bench-peers"


@cache
def npm_packages() -> Path | str:
    """The folder of the packages in package.json, or what went wrong, in a sentence."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed: apt-get install nodejs npm"
    folder = CACHE / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = (HERE / "package.json").read_text()
    if not _pinned(folder, manifest):
        (folder / "package.json").write_text(manifest)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"npm could not install {', '.join(json.loads(manifest)['dependencies'])}: {_last_line(done.stderr)}"
    return folder


def _pinned(folder: Path, manifest: str) -> bool:
    for package, version in json.loads(manifest)["dependencies"].items():
        installed = folder / "node_modules" / package / "package.json"
        if not installed.exists() or json.loads(installed.read_text())["version"] != version:
            return False
    return True


@cache
def python_environment() -> Path | str:
    """The interpreter of an environment with requirements.txt, apart from ours; or what went wrong, in a sentence."""
    folder = CACHE / "venv"
    python = folder / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "-r", str(HERE / "requirements.txt")], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return f"pip could not install {', '.join(wanted.split())}: {_last_line(done.stderr)}"
        stamp.write_text(wanted)
    return python


def python_missing() -> str | None:
    environment = python_environment()
    return environment if isinstance(environment, str) else None


def python_module(name: str, *arguments: str) -> list[str | Path]:
    """The command line of a module of ours in that environment, which is there."""
    python = python_environment()
    assert isinstance(python, Path)
    return ["env", f"PYTHONPATH={HERE.parents[1]}", python, "-m", name, *arguments]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it did not say why"])[-1]

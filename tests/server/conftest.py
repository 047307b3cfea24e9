"""The whole service in this process, on a database of its own, and clients for it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from runwire.assembly import Assembly
from runwire.settings import Settings
from server.calls import Api

LogLines = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def log_lines(caplog: pytest.LogCaptureFixture) -> Iterator[LogLines]:
    """The logged lines, without those of libraries. A test that leaves an error in the log, or a traceback, fails."""
    with capture_logs() as lines:
        yield lines
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


@pytest.fixture
def overrides() -> dict[str, Any]:
    """Settings a test module wants otherwise."""
    return {}


@pytest.fixture
async def service(database: str, overrides: dict[str, Any]) -> AsyncIterator[Assembly]:
    settings: dict[str, Any] = {
        "database_url": database,
        "bus": "memory",
        "port": 0,
        "admin_port": 0,
        "drain_s": 2.0,
        "agents": ("server.approval:approval", "server.approval:review"),
    }
    async with Assembly(Settings(**(settings | overrides))) as assembled:
        yield assembled


@pytest.fixture
async def api(service: Assembly) -> AsyncIterator[Api]:
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as http:
        yield Api(http)


@pytest.fixture
async def admin(service: Assembly) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.admin_url, timeout=10) as http:
        yield http

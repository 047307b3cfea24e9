"""A whole service in this process for the commands to talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from runwire.assembly import Assembly
from runwire.settings import Settings


@pytest.fixture
async def url(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Of the service, which RUNWIRE_URL names too."""
    settings = Settings(
        database_url=database, bus="memory", port=0, admin_port=0, drain_s=2.0, agents=("server.approval:approval",)
    )
    with capture_logs():  # a command's output is only its own
        async with Assembly(settings) as service:
            monkeypatch.setenv("RUNWIRE_URL", service.url)
            yield service.url

"""The sites of these tests are on loopback, which explorations reach only where that is allowed."""

from __future__ import annotations

import pytest

from runwire.agents import web_guard


@pytest.fixture(autouse=True)
async def loopback_is_allowed() -> None:
    # In an async fixture, so that it holds in the context the test's tasks are made in.
    web_guard.allow(["127.0.0.0/8", "::1/128"])

"""The log while its own connection fails in ways that no caller could cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from pipeline import stages
from runwire.append.event_log import _SQL, _why
from runwire.db import Row, Session
from runwire.errors import DatabaseUnavailable, StorageUnavailable
from runwire.model.event import Source, debug_trace


@dataclass
class Fault:
    """The statement at which sessions raise, and what; with None they pass everything on."""

    error: Exception
    at: str | None = None

    def wrap(self, session: Session) -> Session:
        return Failing(session, self)


class Failing(Session):
    """Passes statements on, but for one, at which it raises."""

    def __init__(self, session: Session, fault: Fault) -> None:
        self._inner = session
        self._fault = fault

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        if sql == self._fault.at:
            raise self._fault.error
        return await self._inner.fetch(sql, *args)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_a_refusal_that_cannot_be_explained_is_the_storages_failure(database: str) -> None:
    fault = Fault(DatabaseUnavailable("gone"), at=_SQL["refused"])
    async with stages(database, sessions=fault.wrap) as s:
        with pytest.raises(StorageUnavailable):
            await s.log.append("nowhere", [debug_trace("x")], fence=1, source=Source.API)


async def test_an_error_nobody_foresaw_reaches_the_caller_and_the_lane_goes_on(database: str) -> None:
    fault = Fault(RuntimeError("a bug"))
    async with stages(database, sessions=fault.wrap) as s:
        fence = await s.started_run("r")
        fault.at = _SQL["append_one"]
        with structlog.testing.capture_logs() as lines, pytest.raises(StorageUnavailable):
            await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
        assert [line["error_type"] for line in lines if line["event"] == "append_failed"] == ["RuntimeError"]
        fault.at = None
        assert (await s.log.append("r", [debug_trace("y")], fence=fence, source=Source.API)).last_seq == 2


def test_a_run_that_changed_while_it_was_looked_at_may_be_tried_again() -> None:
    request: Any = type("R", (), {"run_id": "r", "fence": 1, "if_seq": None, "source": Source.WORKER})
    now: Any = {"state": "started", "fence": 1, "last_seq": 4, "external": False}
    assert isinstance(_why(request, now), StorageUnavailable)

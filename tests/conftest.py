"""Fixtures for every test: a database of its own. And what no test may leave behind: tasks, and its logging."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from logging_state import logging_as_it_was
from postgres import RunServer, cloned_database

SERVER = pytest.StashKey[RunServer]()
GRACE_S = 1.0  # for what the test already told to end


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Run in the background of a shell, which has it ignored: what the tests start must not inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[SERVER] = RunServer()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """With xdist, called in the controller for each worker: all get the controller's server."""
    node.workerinput["postgres_dsn"] = node.config.stash[SERVER].dsn()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVER].stop()


@pytest.fixture(scope="session")
def postgres_dsn(pytestconfig: pytest.Config) -> str:
    """An administrator's DSN of the run's PostgreSQL. Most tests want `database` instead."""
    worker_input: dict[str, str] | None = getattr(pytestconfig, "workerinput", None)
    return worker_input["postgres_dsn"] if worker_input is not None else pytestconfig.stash[SERVER].dsn()


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    """The DSN of a migrated, empty database that only this test uses."""
    async with cloned_database(postgres_dsn) as dsn:
        yield dsn


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Logging that a test configures, or that it starts a process's parts with, is gone with it."""
    with logging_as_it_was():
        yield


@pytest.fixture(autouse=True)
def no_task_left_behind(request: pytest.FixtureRequest) -> None:
    """Async tests fail when they, or their fixtures, leave asyncio tasks running."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("task_watch")


@pytest.fixture
async def task_watch() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE_S)
    if left:
        pytest.fail("tasks left running: " + ", ".join(sorted(f"{t.get_name()} {t.get_coro()}" for t in left)))

"""A trace backend for the tests of this folder, started once; empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from traces.backend import NotInstalled, TraceBackend, backend, installed


@pytest.fixture(scope="session")
def _running_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceBackend]:
    try:
        installed()
    except NotInstalled as error:
        pytest.skip(str(error))
    with backend(tmp_path_factory.mktemp("trace-backend")) as running:
        yield running


@pytest.fixture
def traces(_running_backend: TraceBackend) -> TraceBackend:
    _running_backend.clear()
    return _running_backend

"""The Datadog Agent's own base check, in an environment of its own: it pins what it needs, and so do we."""

from __future__ import annotations

from pathlib import Path

import pytest

from pypi import python_with


@pytest.fixture(scope="session")
def datadog_python() -> Path:
    """An interpreter that has the check."""
    return python_with("datadog-checks-base[deps]==38.5.0", into="datadog")

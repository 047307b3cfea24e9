"""The package shows all that it has, what is imported late as well."""

from __future__ import annotations

import subprocess
import sys

import pytest

import runwire
from runwire.client import Client


def test_everything_public_is_listed_and_there() -> None:
    assert set(runwire.__all__) <= set(dir(runwire))
    assert all(getattr(runwire, name) is not None for name in runwire.__all__)
    assert runwire.Client is Client


def test_a_star_import_brings_the_client_and_a_plain_one_no_http_stack() -> None:
    script = "import runwire, sys; dir(runwire); print('aiohttp' in sys.modules); from runwire import *; print(Client)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n<class 'runwire.client.client.Client'>\n"


NEVER_WITH_SETTINGS = ("aiohttp", "asyncpg", "nats", "obstore", "opentelemetry", "prometheus_client", "structlog")
NEVER_WITH_AN_AGENT = (*NEVER_WITH_SETTINGS, "pydantic", "pydantic_settings", "typer", "rich")


@pytest.mark.parametrize(
    ("imported", "never"),
    [
        ("runwire", NEVER_WITH_AN_AGENT),
        ("runwire.settings", NEVER_WITH_SETTINGS),
        ("runwire.client", tuple(name for name in NEVER_WITH_AN_AGENT if name != "aiohttp")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(imported: str, never: tuple[str, ...]) -> None:
    script = f"import {imported}, sys; print([name for name in {never!r} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"

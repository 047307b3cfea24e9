"""The registry of buses: one entry makes a module a bus, for settings, processes and the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from bus.test_conformance import BUSES
from bus.toy_bus import CARRIED, checked
from runwire import Client
from runwire.assembly import Assembly
from runwire.bus.kinds import KINDS, BusKind
from runwire.errors import ConfigurationError
from runwire.settings import Role, load_settings


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kind = BusKind(
        module="bus.toy_bus",
        named="`toy://host`",
        about="the host of a toy: `toy://host`",
        schemes=("toy",),
        check=checked,
        one_process=True,
    )
    monkeypatch.setitem(KINDS, "toy", kind)
    yield
    CARRIED.clear()


@pytest.mark.usefixtures("toy")
async def test_a_process_publishes_and_streams_by_a_bus_of_another_module(database: str) -> None:
    settings = load_settings(database_url=database, bus="toy://here", port=0, admin_port=0, drain_s=1.0, auth="none")
    assert settings.bus_name == "toy"
    async with Assembly(settings) as process, Client(process.url) as client:
        started = await client.start("golden")
        assert [event.seq async for event in client.stream(started.run_id)] == list(range(1, 14))
        async with httpx.AsyncClient(base_url=process.admin_url, timeout=20) as http:
            assert (await http.get("/readyz")).status_code == 200
    assert {message.run_id for message in CARRIED} == {started.run_id}


@pytest.mark.usefixtures("toy")
def test_its_url_is_checked_by_its_own_rules() -> None:
    with pytest.raises(ConfigurationError, match="RUNWIRE_BUS: must name a host as `toy://host`"):
        load_settings(bus="toy://")
    with pytest.raises(ConfigurationError, match="the toy bus needs api, worker and publisher"):
        load_settings(bus="toy://here", roles=(Role.API,))


@pytest.mark.usefixtures("toy")
def test_a_refusal_names_every_bus_that_there_is() -> None:
    with pytest.raises(
        ConfigurationError, match=r"must be `memory`, `postgres`, `nats://host\[:port\]` or `toy://host`"
    ):
        load_settings(bus="rabbit")


def test_the_conformance_suite_runs_against_every_bus() -> None:
    assert set(BUSES) == set(KINDS)

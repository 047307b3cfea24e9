"""The intruders of the campaign, at a service that is as it should be and at one that is not."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import pytest

from chaos.intruders import OF_RUNS, Intruders
from chaos.tenants import Realm, Tenant
from runwire.assembly import Assembly
from runwire.settings import Settings
from server.calls import Api


async def intruded(database: str, realm: Realm, monkeypatch: pytest.MonkeyPatch, *, tenants: bool) -> Intruders:
    """Intruders who have tried everything at one run of each tenant, and looked at each tenant's list."""
    for name, value in realm.environment.items():
        monkeypatch.setenv(name, value)
    if not tenants:
        monkeypatch.delenv("RUNWIRE_JWT_TENANT_CLAIM")
    settings = Settings(database_url=database, bus="memory", port=0, admin_port=0, drain_s=1, tenants=tenants)
    run_ids = [tenant.run_id("r") for tenant in realm.tenants]
    async with Assembly(settings) as service:
        port = int(service.url.rpartition(":")[2])
        intruders = Intruders(realm, ports=[port], run_ids=run_ids, rng=random.Random(1))
        for tenant in realm.tenants:
            async with caller(tenant, service.url) as http:
                await Api(http).external(tenant.run_id("r"))
        for tenant in realm.tenants:
            await intruders.listed(tenant)
            await intruders.in_the_calm(tenant.run_id("r"))
    return intruders


def caller(tenant: Tenant, url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=10, headers={"Authorization": f"Bearer {tenant.good()}"})


async def test_everything_they_try_is_refused(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (await intruded(database, Realm(tmp_path), monkeypatch, tenants=True)).probes
    assert probes.crossed == []
    assert probes.refused == probes.tried.total() > 10 * len(OF_RUNS)
    assert probes.runs_listed == 2


async def test_a_service_that_does_not_tell_tenants_apart_is_found_out(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = (await intruded(database, Realm(tmp_path), monkeypatch, tenants=False)).probes
    by_another = [operation for operation in OF_RUNS if operation.operation_id != "listRuns"]
    for operation in by_another:
        assert any(
            f"{operation.method} {operation.shown_path} of acme:r by another tenant" in one for one in probes.crossed
        )
    assert "acme is shown globex:r" in probes.crossed
    assert all(" by another tenant" in one or " is shown " in one for one in probes.crossed), "others are refused still"

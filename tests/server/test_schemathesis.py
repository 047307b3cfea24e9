"""Requests made up from the OpenAPI document, good and bad ones, against the real service, open and authenticated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from runwire.assembly import Assembly
from server.calls import Api
from server.issuer import Issuer

EXAMPLES = 25
EXCLUDED = (
    # A cursor, an agent or a run may fit its schema and not be there: 400, 409 and 422 are answers, too.
    "positive_data_acceptance",
)
ISSUER = Issuer()
MODES = pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"]
)


@pytest.fixture
def overrides() -> dict[str, Any]:
    # A stream that has nothing to say ends soon, cleanly, instead of holding the test.
    return {"sse_max_age_s": 0.2, "drain_s": 5.0}


def made_up(schema: Any, method: str, path: str, mode: GenerationMode, token: str | None) -> None:
    operation = schema[path][method]
    checks = [check for check in CHECKS.get_all() if check.__name__ not in EXCLUDED]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    @settings(
        max_examples=EXAMPLES if token is None else EXAMPLES // 3,  # the answers behind the gate are the same
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        case.call_and_validate(checks=checks, timeout=10, headers=headers)

    each()


async def check_all(service: Assembly, document: dict[str, Any], mode: GenerationMode, *, token: str | None) -> None:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=service.url)
    # A list with more runs than a stream may have makes an address too long, which is found out first.
    refusals = schema.config.checks.negative_data_rejection
    refusals.expected_statuses = [*refusals.expected_statuses, "414"]
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            if mode is GenerationMode.NEGATIVE and not described.keys() & {"parameters", "requestBody"}:
                continue  # it takes nothing, so nothing can be wrong with it
            await asyncio.to_thread(made_up, schema, method.upper(), path, mode, token)


@MODES
async def test_no_request_gets_an_answer_the_document_does_not_have(
    service: Assembly, api: Api, mode: GenerationMode
) -> None:
    await api.external("ext", leaseSeconds=600)
    await check_all(service, (await api.http.get("/openapi.json")).json(), mode, token=None)


class TestAuthenticated:
    """The same with callers who say who they are; one check asks whether leaving that out is noticed."""

    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return ISSUER.settings(tmp_path, sse_max_age_s=0.2, drain_s=5.0)

    @MODES
    async def test_no_request_gets_an_answer_the_document_does_not_have(
        self, service: Assembly, api: Api, mode: GenerationMode
    ) -> None:
        token = ISSUER.token(tenant="default")
        document = (await api.http.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"].keys() == {"bearer", "ticket"}
        api.http.headers["Authorization"] = f"Bearer {token}"
        await api.external("ext", leaseSeconds=600)
        await check_all(service, document, mode, token=token)

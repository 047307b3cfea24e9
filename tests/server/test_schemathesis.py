"""Requests made up from the OpenAPI document, good and bad ones, against the real service."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from runwire.assembly import Assembly
from server.calls import Api

EXAMPLES = 25
EXCLUDED = (
    # A cursor, an agent or a run may fit its schema and not be there: 400, 409 and 422 are answers, too.
    "positive_data_acceptance",
)


@pytest.fixture
def overrides() -> dict[str, Any]:
    # A stream that has nothing to say ends soon, cleanly, instead of holding the test.
    return {"sse_max_age_s": 0.2, "drain_s": 5.0}


def made_up(schema: Any, method: str, path: str, mode: GenerationMode) -> None:
    operation = schema[path][method]
    checks = [check for check in CHECKS.get_all() if check.__name__ not in EXCLUDED]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        case.call_and_validate(checks=checks, timeout=10)

    each()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
async def test_no_request_gets_an_answer_the_document_does_not_have(
    service: Assembly, api: Api, mode: GenerationMode
) -> None:
    await api.external("ext", leaseSeconds=600)
    document = (await api.http.get("/openapi.json")).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=service.url)
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            if mode is GenerationMode.NEGATIVE and not described.keys() & {"parameters", "requestBody"}:
                continue  # it takes nothing, so nothing can be wrong with it
            await asyncio.to_thread(made_up, schema, method.upper(), path, mode)

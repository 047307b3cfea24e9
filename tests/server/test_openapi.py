"""The OpenAPI documents say what the listeners do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from runwire.errors import DECLARED
from server.calls import RUNS, Api


@pytest.fixture
async def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = (await api.http.get("/openapi.json")).json()
    return found


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]


async def test_every_reference_resolves_and_every_schema_is_a_schema(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in references(document)} <= set(schemas)
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    names = [described["operationId"] for _, _, described in operations(document)]
    assert len(names) == len(set(names))


async def test_the_document_has_the_routes_of_the_api_and_no_others(api: Api, document: dict[str, Any]) -> None:
    for method, path, _ in operations(document):
        url = path.replace("{runId}", "no body").replace("{n}", "1")
        answer = await api.http.request(method, url, headers={"Runwire-Fence": "1"}, json={"events": [], "name": "x"})
        assert (answer.status_code, answer.json().get("code")) not in [(404, "not_found"), (405, "method_not_allowed")]
    for path in document["paths"]:
        documented = {method for method, at, _ in operations(document) if at == path}
        wrong = await api.http.request("PATCH", path.replace("{runId}", "x").replace("{n}", "1"))
        assert set(wrong.headers["Allow"].split(", ")) - {"HEAD"} == documented, path


async def test_the_admin_document_has_the_routes_of_the_admin_listener(admin: httpx.AsyncClient) -> None:
    document = (await admin.get("/openapi.json")).json()
    assert [path for _, path, _ in operations(document)] == ["/healthz", "/readyz", "/metrics", "/openapi.json"]
    for method, path, _ in operations(document):
        assert (await admin.request(method, path)).status_code == 200, path


async def test_answers_have_the_shape_the_document_gives_them(api: Api, document: dict[str, Any]) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    fence = await api.external("ext")
    shapes = {
        "StartAccepted": await api.http.post(RUNS, json={"runId": "ext", "external": True}),
        "RunView": await api.http.get(f"{RUNS}/{run_id}"),
        "RunPage": await api.http.get(RUNS),
        "EventsPage": await api.http.get(f"{RUNS}/{run_id}/events"),
        "RunStateDocument": await api.http.get(f"{RUNS}/{run_id}/state"),
        "EventsAppended": await api.append("ext", [], fence=fence),
        "Problem": await api.http.get(f"{RUNS}/nobody"),
    }
    for name, answer in shapes.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.validator_for(schema).validate(answer.json())


async def test_every_code_of_the_table_is_documented_somewhere(document: dict[str, Any]) -> None:
    told = " ".join(
        response.get("description", "")
        for _, _, described in operations(document)
        for response in described["responses"].values()
    )
    generic = {"not_found", "method_not_allowed", "expectation_failed"}
    generic |= {"malformed_http", "headers_too_large", "duplicate_header", "too_many_connections"}
    generic |= {"value_refused"}  # by the database, wherever a value goes
    assert {code for code in DECLARED if f"`{code}`" not in told} == generic


async def test_a_route_with_a_query_says_that_an_address_may_be_too_long(api: Api, document: dict[str, Any]) -> None:
    with_query = {
        path: described["responses"]
        for method, path, described in operations(document)
        if method == "GET" and any(one["in"] == "query" for one in described.get("parameters", ()))
    }
    assert all("`uri_too_long`" in responses["414"]["description"] for responses in with_query.values())
    too_many = "&".join(f"run=r{n:040}" for n in range(200))
    refused = await api.http.get(f"/api/agents/stream?{too_many}")
    assert (refused.status_code, refused.json()["code"]) == (414, "uri_too_long")
    assert "/api/agents/stream" in with_query

"""Every refusal: its status, its code, and that the log stays silent about what is the client's doing."""

from __future__ import annotations

from typing import Any

import asyncpg
import httpx
import pytest

from runwire.assembly import Assembly
from server.calls import RUNS, Api, exchanged
from server.conftest import LogLines

JSON = {"Content-Type": "application/json"}
FENCE = {"Runwire-Fence": "1"}

Call = tuple[str, str, dict[str, Any]]

REFUSALS: dict[str, tuple[Call, tuple[int, str]]] = {
    "no such path": (("GET", "/api/agents/nothing", {}), (404, "not_found")),
    "a slash too many": (("GET", RUNS + "/", {}), (404, "not_found")),
    "no such page": (("GET", "/docs/nothing", {}), (404, "not_found")),
    "no such asset": (("GET", "/docs/../pyproject.toml", {}), (404, "not_found")),
    "wrong method": (("PUT", RUNS, {}), (405, "method_not_allowed")),
    "HEAD of a stream": (("HEAD", f"{RUNS}/ext/stream", {}), (405, "")),
    "PATCH of a run": (("PATCH", f"{RUNS}/ext", {}), (405, "method_not_allowed")),
    "odd expectation": (("POST", RUNS, {"headers": {"Expect": "miracles"}}), (417, "expectation_failed")),
    "broken JSON": (("POST", RUNS, {"content": b'{"agent": ', "headers": JSON}), (400, "malformed_json")),
    "trailing text": (("POST", RUNS, {"content": b"{} {}", "headers": JSON}), (400, "malformed_json")),
    "no UTF-8": (("POST", RUNS, {"content": b'{"agent": "\xff"}', "headers": JSON}), (400, "malformed_json")),
    "half a surrogate": (("POST", RUNS, {"content": b'{"input":{"a":"\\ud800"}}'}), (400, "malformed_json")),
    "endless nesting": (
        ("POST", RUNS, {"content": b'{"input":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"}),
        (400, "malformed_json"),
    ),
    "deep nesting": (
        ("POST", RUNS, {"content": b'{"input":{"a":' + b"[" * 200 + b"]" * 200 + b"}}"}),
        (422, "invalid_request"),
    ),
    "array": (("POST", RUNS, {"json": []}), (422, "invalid_request")),
    "unknown field": (("POST", RUNS, {"json": {"agnet": "golden"}}), (422, "invalid_request")),
    "wrong type": (("POST", RUNS, {"json": {"external": "yes"}}), (422, "invalid_request")),
    "number out of range": (("POST", RUNS, {"content": b'{"input":{"a":1e999}}'}), (422, "invalid_request")),
    "lease too short": (("POST", RUNS, {"json": {"external": True, "leaseSeconds": 0.5}}), (422, "invalid_request")),
    "lease too long": (("POST", RUNS, {"json": {"external": True, "leaseSeconds": 3601}}), (422, "invalid_request")),
    "form": (("POST", RUNS, {"data": {"agent": "golden"}}), (415, "unsupported_media_type")),
    "text": (
        ("POST", RUNS, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}),
        (415, "unsupported_media_type"),
    ),
    "too large": (("POST", RUNS, {"json": {"input": {"a": "x" * 300_000}}}), (413, "body_too_large")),
    "unknown agent": (("POST", RUNS, {"json": {"agent": "nobody"}}), (422, "unknown_agent")),
    "no agent's name": (("POST", RUNS, {"json": {"agent": "no\u0000body"}}), (422, "invalid_request")),
    "input that does not fit": (("POST", RUNS, {"json": {"input": {"delay_ms": "x"}}}), (422, "invalid_input")),
    "empty run id": (("POST", RUNS, {"json": {"runId": ""}}), (400, "invalid_run_id")),
    "run id with a space": (("POST", RUNS, {"json": {"runId": "a b"}}), (400, "invalid_run_id")),
    "run id with a newline": (("POST", RUNS, {"json": {"runId": "ab\n"}}), (400, "invalid_run_id")),
    "run id of 129": (("POST", RUNS, {"json": {"runId": "a" * 129}}), (400, "invalid_run_id")),
    "empty key": (("POST", RUNS, {"headers": {"Idempotency-Key": ""}}), (400, "invalid_idempotency_key")),
    "key of 256": (("POST", RUNS, {"headers": {"Idempotency-Key": "k" * 256}}), (400, "invalid_idempotency_key")),
    "key with a space": (("POST", RUNS, {"headers": {"Idempotency-Key": "a b"}}), (400, "invalid_idempotency_key")),
    "taken run id": (("POST", RUNS, {"json": {"runId": "ext"}}), (409, "start_conflict")),
    "odd state": (("GET", RUNS, {"params": {"state": "happy"}}), (400, "invalid_state")),
    "odd agent": (("GET", RUNS, {"params": {"agent": "a\u0000"}}), (400, "invalid_agent")),
    "unknown parameter": (("GET", RUNS, {"params": {"status": "started"}}), (400, "unknown_parameter")),
    "parameter of another route": (("GET", f"{RUNS}/ext/events?state=started", {}), (400, "unknown_parameter")),
    "unknown parameter of a write": (("POST", f"{RUNS}?dry=1", {"json": {}}), (400, "unknown_parameter")),
    "unknown parameter of a stream": (("GET", f"{RUNS}/ext/stream?from=3", {}), (400, "unknown_parameter")),
    "ticket on another route": (("GET", f"{RUNS}/ext?ticket=x", {}), (400, "unknown_parameter")),
    "limit of 0": (("GET", RUNS, {"params": {"limit": "0"}}), (400, "invalid_limit")),
    "limit of 1001": (("GET", RUNS, {"params": {"limit": "1001"}}), (400, "invalid_limit")),
    "no limit": (("GET", RUNS, {"params": {"limit": "many"}}), (400, "invalid_limit")),
    "foreign digits": (("GET", RUNS, {"params": {"limit": "\u0663"}}), (400, "invalid_limit")),
    "odd list cursor": (("GET", RUNS, {"params": {"cursor": "!!!"}}), (400, "invalid_cursor")),
    "list cursor of others": (("GET", RUNS, {"params": {"cursor": "aGVsbG8"}}), (400, "invalid_cursor")),
    "no such run": (("GET", f"{RUNS}/nobody", {}), (404, "run_not_found")),
    "bad run id": (("GET", f"{RUNS}/a%20b", {}), (400, "invalid_run_id")),
    "slash in a run id": (("GET", f"{RUNS}/a%2Fb", {}), (400, "invalid_run_id")),
    "state of nobody": (("GET", f"{RUNS}/nobody/state", {}), (404, "run_not_found")),
    "events of nobody": (("GET", f"{RUNS}/nobody/events", {}), (404, "run_not_found")),
    "events past the tail": (("GET", f"{RUNS}/ext/events?fromSeq=9", {}), (400, "cursor_past_tail")),
    "odd cursor": (("GET", f"{RUNS}/ext/events?fromSeq=x", {}), (400, "invalid_cursor")),
    "page of 0": (("GET", f"{RUNS}/ext/events?limit=0", {}), (400, "invalid_limit")),
    "cancel nobody": (("POST", f"{RUNS}/nobody/cancel", {}), (404, "run_not_found")),
    "delete nobody": (("DELETE", f"{RUNS}/nobody", {}), (404, "run_not_found")),
    "signal nobody": (("POST", f"{RUNS}/nobody/signal", {"json": {"name": "go"}}), (404, "run_not_found")),
    "signal nothing": (("POST", f"{RUNS}/ext/signal", {}), (400, "malformed_json")),
    "signal no name": (("POST", f"{RUNS}/ext/signal", {"json": {}}), (422, "invalid_request")),
    "signal a text": (("POST", f"{RUNS}/ext/signal", {"json": {"name": "go on, please"}}), (422, "invalid_request")),
    "signal with an odd id": (
        ("POST", f"{RUNS}/ext/signal", {"json": {"name": "go", "id": "no id"}}),
        (422, "invalid_request"),
    ),
    "signal too much": (
        ("POST", f"{RUNS}/ext/signal", {"json": {"name": "go", "data": "x" * 65_535}}),
        (413, "signal_too_large"),
    ),
    "signal a closed run": (("POST", f"{RUNS}/closed/signal", {"json": {"name": "go"}}), (409, "run_closed")),
    "append without fence": (("POST", f"{RUNS}/ext/events", {"json": {"events": []}}), (400, "missing_fence")),
    "append with an odd fence": (
        ("POST", f"{RUNS}/ext/events", {"json": {"events": []}, "headers": {"Runwire-Fence": "-1"}}),
        (400, "missing_fence"),
    ),
    "append to nobody": (
        ("POST", f"{RUNS}/nobody/events", {"json": {"events": []}, "headers": FENCE}),
        (404, "run_not_found"),
    ),
    "append to a closed run": (
        ("POST", f"{RUNS}/closed/events", {"json": {"events": []}, "headers": FENCE}),
        (409, "run_closed"),
    ),
    "append nothing": (("POST", f"{RUNS}/ext/events", {"headers": FENCE}), (400, "malformed_json")),
    "append no list": (
        ("POST", f"{RUNS}/ext/events", {"json": {"events": {}}, "headers": FENCE}),
        (422, "invalid_request"),
    ),
}


async def test_every_refusal_is_a_problem_with_its_status_and_code_and_no_line_in_the_log(
    api: Api, log_lines: LogLines
) -> None:
    await api.external("ext", leaseSeconds=600)
    await api.finish("closed", fence=await api.external("closed"))
    before = (await api.http.get(RUNS)).json()
    log_lines.clear()
    answers: dict[str, tuple[int, str]] = {}
    for name, ((method, path, options), _) in REFUSALS.items():
        url = httpx.URL(str(api.http.base_url).rstrip("/") + path)
        response = await api.http.request(method, url, **options)
        body = response.json() if response.content else {"code": ""}
        answers[name] = (response.status_code, body["code"])
        if response.content:
            assert response.headers["Content-Type"] == "application/problem+json", name
            assert {"type", "title", "status", "detail", "code", "instance"} <= set(body), name
            assert body["status"] == response.status_code, name
            assert response.headers["Cache-Control"] == "no-store", name
        assert response.headers["X-Content-Type-Options"] == "nosniff", name
    assert answers == {name: expected for name, (_, expected) in REFUSALS.items()}
    assert [line for line in log_lines if line["log_level"] != "debug"] == []
    assert (await api.http.get(RUNS)).json() == before


async def test_a_wrong_method_is_told_the_right_ones(api: Api) -> None:
    allowed = {
        RUNS: "GET, HEAD, POST",
        f"{RUNS}/x": "DELETE, GET, HEAD",
        f"{RUNS}/x/events": "GET, HEAD, POST",
        f"{RUNS}/x/stream": "GET",
        f"{RUNS}/x/cancel": "POST",
        f"{RUNS}/x/signal": "POST",
    }
    answers = {path: (await api.http.patch(path)).headers["Allow"] for path in allowed}
    assert answers == allowed


async def test_a_problem_s_type_leads_to_its_description(api: Api) -> None:
    problem = (await api.http.get(f"{RUNS}/nobody")).json()
    path, _, anchor = problem["type"].partition("#")
    page = await api.http.get(path)
    assert page.status_code == 200
    assert f'id="{anchor}"' in page.text


async def test_an_unknown_agent_is_answered_with_the_known_ones(api: Api) -> None:
    problem = (await api.http.post(RUNS, json={"agent": "nobody"})).json()
    assert (problem["agent"], problem["known"]) == ("nobody", ["approval", "canary", "explore", "golden", "review"])


async def test_json_with_a_charset_and_no_content_type_are_both_taken(api: Api) -> None:
    for headers in ({"Content-Type": "application/json; charset=utf-8"}, {}):
        response = await api.http.post(RUNS, content=b'{"external": true}', headers=headers)
        assert response.status_code == 202, headers


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon here\r\n\r\n",
        b"POST /api/agents/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGARBAGE GARBAGE GARBAGE\r\n\r\n",
    ],
)
async def test_malformed_http_is_answered_with_400_and_leaves_no_trace_in_the_log(
    api: Api, service: Assembly, request_bytes: bytes
) -> None:
    assert service.api_port is not None
    answer = await exchanged(service.api_port, request_bytes)
    assert any(f"HTTP/1.{minor} {status} ".encode() in answer for minor in (0, 1) for status in (400, 414))
    assert b'"code":"malformed_http"' in answer or b'"code":"uri_too_long"' in answer
    assert b"text/plain" not in answer
    assert (await api.http.get(RUNS)).status_code == 200


async def test_a_body_that_is_not_encoded_as_declared_is_malformed(service: Assembly) -> None:
    assert service.api_port is not None
    head = (
        f"POST {RUNS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n".encode()
    )
    chunked = await exchanged(service.api_port, head + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n")
    assert b"400" in chunked.partition(b"\r\n")[0]


async def test_a_table_that_is_missing_is_a_database_that_fails_and_no_fault_of_ours(
    api: Api, database: str, log_lines: LogLines
) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("ALTER TABLE run_checkpoints RENAME TO secret_checkpoints")
        response = await api.http.get(f"{RUNS}/nobody/state")
        await connection.execute("ALTER TABLE secret_checkpoints RENAME TO run_checkpoints")
    finally:
        await connection.close()
    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
    assert response.headers["Retry-After"] == "1"
    assert "checkpoints" not in response.text
    (line,) = [line for line in log_lines if line["event"] == "database_unavailable"]
    assert (line["doing"], line["route"]) == ("request", f"{RUNS}/{{run_id}}/state")
    assert line["why"] == "PostgreSQL: undefined table"


class TestWithoutADatabaseThatAnswers:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"db_timeout_s": 0.3}

    async def test_requests_are_answered_with_503_and_when_to_come_back(
        self, api: Api, admin: httpx.AsyncClient, database: str
    ) -> None:
        fence = await api.external("ext", leaseSeconds=600)
        connection = await asyncpg.connect(database)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE runs, run_outbox IN ACCESS EXCLUSIVE MODE")
                answers = [
                    await api.http.post(RUNS, json={}),
                    await api.http.get(RUNS),
                    await api.http.get(f"{RUNS}/ext"),
                    await api.http.post(f"{RUNS}/ext/cancel"),
                    await api.http.get(f"{RUNS}/ext/events"),
                    await api.http.get(f"{RUNS}/ext/stream"),
                    await api.append("ext", [{"type": "DebugTrace", "fn": "a.b"}], fence=fence, ifSeq=1),
                ]
        finally:
            await connection.close()
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
        codes = [answer.json()["code"] for answer in answers]
        assert codes == ["database_unavailable", "read_timed_out", *["database_unavailable"] * 4, "storage_unavailable"]
        repeated = await api.append("ext", [{"type": "DebugTrace", "fn": "a.b"}], fence=fence, ifSeq=1)
        assert repeated.status_code in (200, 409)
        assert (await api.run("ext"))["lastSeq"] == 2
        assert (await admin.get("/healthz")).status_code == 200

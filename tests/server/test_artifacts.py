"""Artifacts over HTTP: stored by nodes and by external orchestrators, read as files are, erased for good."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from runwire import END, Agent, Context
from runwire.content.spool import INLINE_MAX
from server.calls import RUNS, Api

LARGE = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Nothing:
    seen: str = ""


maker = Agent("maker", start="Make", state=Nothing)


@maker.node(to="End")
async def make(ctx: Context, state: Nothing) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(LARGE), 65536):
            yield LARGE[at : at + 65536]

    note = await ctx.artifact("note.txt", "hello", media_type="text/plain")
    large = await ctx.artifact("large.bin", pieces())
    state.seen = f"{note.n} {note.size} {note.media_type} {large.n} {large.sha256}"
    ctx.result({"answer": "first"})


@maker.node(to=END)
async def end(ctx: Context, _state: Nothing) -> None:
    return await ctx.result({"answer": 42})


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return {
        "agents": ("server.test_artifacts:maker",),
        "content_url": str(tmp_path / "content"),
        "artifact_max_bytes": 2 * 1024 * 1024,
        "artifacts_per_run_max": 5,
    }


async def store(api: Api, run_id: str, name: str, data: Any, *, fence: int, **headers: str) -> httpx.Response:
    return await api.http.post(
        f"{RUNS}/{run_id}/artifacts",
        params={"name": name},
        content=data,
        headers={"Runwire-Fence": str(fence), **{key.replace("_", "-"): value for key, value in headers.items()}},
    )


async def fns(api: Api, run_id: str) -> list[str]:
    events = (await api.http.get(f"{RUNS}/{run_id}/events")).json()["events"]
    return [event["fn"] for event in events if event["type"] == "DebugTrace"]


async def test_what_a_node_stores_is_read_back_byte_for_byte_and_told_of_in_the_log(api: Api) -> None:
    run_id = (await api.start(agent="maker"))["runId"]
    assert (await api.ended(run_id))["outcome"] == "finished"
    assert await fns(api, run_id) == [
        "artifact:note.txt:1",
        "artifact:large.bin:2",
        "artifact:result:3",
        "artifact:result:4",
    ]

    listed = (await api.http.get(f"{RUNS}/{run_id}/artifacts")).json()["artifacts"]
    assert [(one["n"], one["name"], one["size"], one["mediaType"]) for one in listed] == [
        (1, "note.txt", 5, "text/plain"),
        (2, "large.bin", len(LARGE), "application/octet-stream"),
        (3, "result", 18, "application/json"),
        (4, "result", 13, "application/json"),
    ]
    assert listed[1]["sha256"] == hashlib.sha256(LARGE).hexdigest()
    events = (await api.http.get(f"{RUNS}/{run_id}/events")).json()["events"]
    assert [events[one["seq"] - 1]["fn"] for one in listed] == await fns(api, run_id)

    note = await api.http.get(f"{RUNS}/{run_id}/artifacts/1")
    assert (note.status_code, note.content, note.headers["Content-Type"]) == (200, b"hello", "text/plain")
    large = await api.http.get(f"{RUNS}/{run_id}/artifacts/2")
    assert large.content == LARGE
    assert (await api.http.get(f"{RUNS}/{run_id}/result")).json() == {"answer": 42}
    state = (await api.http.get(f"{RUNS}/{run_id}/state")).json()["state"]["seen"]
    assert state == f"1 5 text/plain 2 {hashlib.sha256(LARGE).hexdigest()}"


async def test_an_external_orchestrator_stores_what_it_has_a_fence_for(api: Api) -> None:
    fence = await api.external("ext")
    stored = await store(api, "ext", "report.pdf", LARGE, fence=fence, Content_Type="application/pdf")
    assert stored.status_code == 201
    assert stored.headers["Location"] == f"{RUNS}/ext/artifacts/1"
    assert stored.json() == {
        "n": 1,
        "name": "report.pdf",
        "size": len(LARGE),
        "mediaType": "application/pdf",
        "sha256": hashlib.sha256(LARGE).hexdigest(),
        "seq": 2,
    }
    again = await store(api, "ext", "report.pdf", LARGE, fence=fence, Content_Type="application/pdf")
    assert (again.status_code, again.json()["n"]) == (200, 1)
    other = await store(api, "ext", "report.pdf", b"v2", fence=fence, Content_Type="application/pdf")
    assert (other.status_code, other.json()["n"]) == (201, 2)
    await api.published("ext", 3)
    assert await fns(api, "ext") == ["artifact:report.pdf:1", "artifact:report.pdf:2"]
    assert (await api.http.get(f"{RUNS}/ext/artifacts/1")).content == LARGE

    stale = await store(api, "ext", "x", b"x", fence=fence + 1)
    assert (stale.status_code, stale.json()["code"]) == (409, "fence_stale")
    await api.finish("ext", fence=fence)
    closed = await store(api, "ext", "x", b"x", fence=fence)
    assert (closed.status_code, closed.json()["code"]) == (409, "run_closed")
    own = (await api.start(agent="maker"))["runId"]
    assert (await store(api, own, "x", b"x", fence=1)).json()["code"] == "not_external"
    assert (await store(api, "nobody", "x", b"x", fence=1)).json()["code"] == "run_not_found"


MALFORMED = (
    *(
        (name, "text/plain", "invalid_artifact_name")
        for name in ("", "a:1", "../x", "a b", "a\n", "a.b.c.d.e.f", "a" * 65)
    ),
    *(("a", kind, "invalid_media_type") for kind in ("text", 'text/plain; charset="<"', "text/" + "x" * 200)),
)


async def test_names_and_media_types_are_bounded(api: Api) -> None:
    fence = await api.external("ext")
    for name, media_type, code in MALFORMED:
        refused = await store(api, "ext", name, b"x", fence=fence, Content_Type=media_type)
        assert (refused.status_code, refused.json()["code"]) == (400, code), (name, media_type)


async def test_nobody_forges_an_event_of_content(api: Api) -> None:
    fence = await api.external("ext")
    for fn in ("artifact:report:1", "part:answer:1:sealed", "artifact:x"):
        refused = await api.append("ext", [{"type": "DebugTrace", "fn": fn}], fence=fence)
        assert (refused.status_code, refused.json()["code"]) == (422, "reserved_fn")
    assert (await api.append("ext", [{"type": "DebugTrace", "fn": "artifact:x:+"}], fence=fence)).status_code == 422
    assert (await api.append("ext", [{"type": "DebugTrace", "fn": "artifacts:1"}], fence=fence)).status_code == 200


# ------------------------------------------------------------------ bytes, as files are served


async def test_ranges_and_conditions_follow_the_rfc(api: Api) -> None:
    fence = await api.external("ext")
    await store(api, "ext", "large.bin", LARGE, fence=fence)
    await store(api, "ext", "small.txt", b"0123456789", fence=fence, Content_Type="text/plain; charset=utf-8")
    for n, data in ((1, LARGE), (2, b"0123456789")):
        url = f"{RUNS}/ext/artifacts/{n}"

        async def get(url: str = url, **headers: str) -> httpx.Response:
            return await api.http.get(url, headers={key.replace("_", "-"): value for key, value in headers.items()})

        whole = await get()
        etag = whole.headers["ETag"]
        assert (whole.status_code, whole.headers["Accept-Ranges"]) == (200, "bytes")
        assert etag == f'"{hashlib.sha256(data).hexdigest()}"'
        size = len(data)
        for asked, start, stop in (
            ("bytes=0-3", 0, 4),
            ("bytes=5-", 5, size),
            ("bytes=-4", size - 4, size),
            (f"bytes=2-{size * 2}", 2, size),
            (f"bytes=-{size * 2}", 0, size),
            ("bytes=0-", 0, size),
        ):
            part = await get(Range=asked)
            assert (part.status_code, part.content) == (206, data[start:stop]), asked
            assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        for ignored in ("bytes=5-2", "bytes=", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "bytes=a-b"):
            assert (await get(Range=ignored)).status_code == 200, ignored
        beyond = await get(Range=f"bytes={size}-")
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
        assert beyond.json()["code"] == "range_not_satisfiable"
        assert (await get(Range="bytes=0-3", If_Range=etag)).status_code == 206
        assert (await get(Range="bytes=0-3", If_Range='"other"')).status_code == 200
        assert (await get(Range="bytes=0-3", If_Range=f"W/{etag}")).status_code == 200
        same = await get(If_None_Match=etag)
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
        assert (await get(If_None_Match='"other"')).status_code == 200
        head = await api.http.head(url)
        assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(size))


async def test_no_artifact_runs_in_a_browser(api: Api) -> None:
    fence = await api.external("ext")
    await store(api, "ext", "page.html", b"<script>alert(1)</script>", fence=fence, Content_Type="text/html")
    await store(api, "ext", "drawing.svg", b"<svg/>", fence=fence, Content_Type="image/svg+xml")
    await store(api, "ext", "shot.png", b"png", fence=fence, Content_Type="image/png")
    for n, shown in ((1, "attachment"), (2, "attachment"), (3, "inline")):
        answer = await api.http.get(f"{RUNS}/ext/artifacts/{n}")
        assert answer.headers["Content-Disposition"].startswith(f"{shown}; filename=")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_an_erased_artifact_is_gone_and_the_log_is_as_it_was(api: Api, tmp_path: Path) -> None:
    fence = await api.external("ext")
    await store(api, "ext", "large.bin", LARGE, fence=fence)
    await store(api, "ext", "again.bin", LARGE, fence=fence)
    await store(api, "ext", "small.txt", b"small", fence=fence)
    await api.published("ext", 4)
    before = await fns(api, "ext")
    files = [path for path in (tmp_path / "content").rglob("*") if path.is_file()]
    # The second upload of the same bytes is left to the collector; the first is in use twice.
    assert len(files) == 2

    for n in (1, 3):
        assert (await api.http.delete(f"{RUNS}/ext/artifacts/{n}")).status_code == 204
        assert (await api.http.delete(f"{RUNS}/ext/artifacts/{n}")).status_code == 204
        gone = await api.http.get(f"{RUNS}/ext/artifacts/{n}")
        assert (gone.status_code, gone.json()["code"]) == (410, "artifact_erased")
    assert (await api.http.get(f"{RUNS}/ext/artifacts/2")).content == LARGE  # another artifact has the same bytes
    assert (await api.http.delete(f"{RUNS}/ext/artifacts/2")).status_code == 204
    assert len([path for path in (tmp_path / "content").rglob("*") if path.is_file()]) == 1
    listed = (await api.http.get(f"{RUNS}/ext/artifacts")).json()["artifacts"]
    assert all("sha256" not in one and one["erasedAt"] for one in listed)
    assert await fns(api, "ext") == before
    assert (await api.http.delete(f"{RUNS}/ext/artifacts/9")).json()["code"] == "artifact_not_found"
    # Stored again it is a new artifact: the tombstone does not come back to life.
    stored = await store(api, "ext", "small.txt", b"small", fence=fence)
    assert (stored.status_code, stored.json()["n"]) == (201, 4)


# ------------------------------------------------------------------ limits


async def test_limits_have_codes_of_their_own(api: Api) -> None:
    fence = await api.external("ext")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)
            await asyncio.sleep(0)

    for data in (bytes(3 * 1024 * 1024), endless()):
        try:
            refused = await store(api, "ext", "x", data, fence=fence)
        except httpx.HTTPError:  # the answer came, and the connection went, before all of it was sent
            continue
        assert (refused.status_code, refused.json()["code"]) == (413, "artifact_too_large")
        assert refused.json()["max"] == 2 * 1024 * 1024
    for n in range(5):
        assert (await store(api, "ext", f"a{n}", b"x", fence=fence)).status_code == 201
    refused = await store(api, "ext", "a5", b"x", fence=fence)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_artifacts")


class TestQuota:
    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return {"content_url": str(tmp_path / "content"), "content_tenant_max_bytes": INLINE_MAX + 1000}

    async def test_a_tenant_has_so_many_bytes_and_erasing_makes_room(self, api: Api) -> None:
        fence = await api.external("ext")
        assert (await store(api, "ext", "a", bytes(INLINE_MAX + 1), fence=fence)).status_code == 201
        refused = await store(api, "ext", "b", b"x" * 1000, fence=fence)
        assert (refused.status_code, refused.json()["code"]) == (413, "content_quota_exceeded")
        assert (await store(api, "ext", "b", b"x" * 999, fence=fence)).status_code == 201
        await api.http.delete(f"{RUNS}/ext/artifacts/1")
        assert (await store(api, "ext", "c", b"y" * 1000, fence=fence)).status_code == 201


async def test_a_run_without_a_result_has_none(api: Api) -> None:
    await api.external("ext")
    missing = await api.http.get(f"{RUNS}/ext/result")
    assert (missing.status_code, missing.json()["code"]) == (404, "artifact_not_found")
    assert (await api.http.get(f"{RUNS}/ext/artifacts")).json() == {"artifacts": []}
    for n in ("0", "x", "01", "99999999999", "-1"):
        assert (await api.http.get(f"{RUNS}/ext/artifacts/{n}")).status_code == 404
    assert json.loads((await api.http.get(f"{RUNS}/ext/artifacts", params={"name": "a:b"})).text)["code"] == (
        "invalid_artifact_name"
    )

"""`runwire demo` as a real process, on a small web site."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.site import Reply, Site, page, redirect, serving
from cli.command import started

pytestmark = pytest.mark.crash
PAGES = {
    "/": page("/a", "/b", "/gone", title="Home"),
    "/a": page("/c", title="A"),
    "/b": redirect("/a"),
    "/c": page("/", title="C"),
    "/bad": Reply(status=500),
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving(PAGES) as site:
        yield site


async def test_it_explores_a_site_and_prints_the_map(site: Site, tmp_path: Path) -> None:
    began = time.monotonic()
    async with started("demo", "--site", site.origin + "/", "--data-dir", str(tmp_path)) as demo:
        result = await demo.ended(within_s=60)
    assert result.code == 0, result.err
    assert time.monotonic() - began < 60
    for said in ("run started", "Perceive", "finished", "/c  C", "broken    /gone", "redirect  /b -> /a", "lag p50"):
        assert said in result.out
    assert "Traceback" not in result.err
    assert "`runwire demo --keep`" in result.err.splitlines()[-1]  # the addresses it printed are dead now


async def test_told_to_end_while_postgresql_starts_it_says_nothing_more(tmp_path: Path) -> None:
    async with started("demo", "--data-dir", str(tmp_path)) as demo:
        assert "starting PostgreSQL" in await demo.err_line()
        demo.process.send_signal(signal.SIGTERM)
        result = await demo.ended()
    assert (result.code, result.out, result.err) == (130, "", "")


async def test_it_needs_none_of_the_optional_libraries(site: Site, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    for name in ("obstore", "nats", "jwt", "yaml", "grafana_foundation_sdk"):
        (absent / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here', name='{name}')\n")
    where = ("--site", site.origin + "/", "--data-dir", str(tmp_path / "data"))
    async with started("demo", *where, PYTHONPATH=str(absent)) as demo:
        result = await demo.ended(within_s=60)
    assert result.code == 0, result.err
    assert "finished" in result.out


async def test_as_json_every_line_parses_and_the_last_is_the_summary(site: Site, tmp_path: Path) -> None:
    async with started("demo", "--json", "--site", site.origin + "/", "--data-dir", str(tmp_path)) as demo:
        result = await demo.ended(within_s=60)
    urls, *events, last = result.lines
    assert urls["urls"]["site"] == site.origin + "/"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    summary = last["summary"]
    assert (summary["outcome"], summary["events"]) == ("finished", len(events))
    assert {p["path"]: p["outcome"] for p in summary["site"]["pages"]} == {
        "/": "page",
        "/a": "page",
        "/b": "redirect",
        "/gone": "broken",
        "/c": "page",
    }
    assert result.err == ""


async def test_a_site_that_is_not_there_is_a_failed_run_and_exit_code_1(tmp_path: Path) -> None:
    async with started("demo", "--site", "http://127.0.0.1:1/", "--data-dir", str(tmp_path)) as demo:
        result = await demo.ended(within_s=60)
    assert result.code == 1
    assert "error:unreachable:warmup" in result.out
    assert "nothing was opened" in result.out
    assert "Traceback" not in result.err


async def test_kept_it_serves_its_own_documentation_until_ctrl_c(tmp_path: Path) -> None:
    async with started("demo", "--keep", "--json", "--data-dir", str(tmp_path)) as demo:
        urls = json.loads(await demo.line())["urls"]
        assert urls["site"].endswith("/docs/")
        while "summary" not in (seen := json.loads(await demo.line(within_s=60))):
            pass
        assert seen["summary"]["outcome"] == "finished"
        assert len(seen["summary"]["site"]["pages"]) > 1
        assert "Ctrl-C" in await demo.err_line()
        demo.process.send_signal(signal.SIGINT)
        assert (await demo.ended()).code == 0


async def test_ctrl_c_in_the_middle_is_130_without_a_traceback(tmp_path: Path) -> None:
    async with started("demo", "--json", "--data-dir", str(tmp_path)) as demo:
        await demo.line()
        assert json.loads(await demo.line())["seq"] == 1
        demo.process.send_signal(signal.SIGINT)
        result = await demo.ended()
    assert (result.code, result.err) == (130, "")

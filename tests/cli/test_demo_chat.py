"""`runwire demo chat` as a real process: a page, an answer, and a clean end."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from cli.command import started
from runwire.client import Client

pytestmark = pytest.mark.crash


async def test_it_serves_the_chat_until_ctrl_c_and_keeps_the_conversations(tmp_path: Path) -> None:
    options = ("demo", "chat", "--json", "--data-dir", str(tmp_path))
    async with started(*options, RUNWIRE_DEMO_PACE_MS="0") as demo:
        urls = json.loads(await demo.line())["urls"]
        async with httpx.AsyncClient(timeout=30) as http:
            page = await http.get(urls["chat"])
            assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert "script-src 'self'" in page.headers["Content-Security-Policy"]
            for name in ("chat.css", "chat.js", "service.js", "turn.js", "view.js", "markdown.js"):
                assert (await http.get(urls["chat"] + name)).status_code == 200
            assert (await http.get(urls["chat"].rstrip("/"))).headers["Location"] == "chat/"
        async with Client(urls["console"]) as client:
            asked = {"messages": [{"role": "user", "text": "How do you survive a crash?"}]}
            run = await client.start("chat", input=asked, session="talk")
            async for _ in client.stream(run):
                pass
            told = {artifact.name: artifact.n for artifact in await client.artifacts(run)}
            assert b"EventSource" in await client.artifact(run, told["answer"])
        demo.process.send_signal(signal.SIGINT)
        result = await demo.ended()
    assert (result.code, result.err) == (0, "")


async def test_it_says_where_it_is_and_who_answers(tmp_path: Path) -> None:
    async with started("demo", "chat", "--data-dir", str(tmp_path)) as demo:
        assert "starting PostgreSQL" in await demo.err_line()
        name, url = (await demo.line()).split()
        assert (name, url.endswith("/chat/")) == ("chat", True)
        assert "a scripted model answers at" in await demo.err_line()
        demo.process.send_signal(signal.SIGTERM)
        assert (await demo.ended()).code == 0


async def test_a_model_without_a_name_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    async with started("demo", "chat", "--data-dir", str(tmp_path), RUNWIRE_DEMO_MODEL_URL=url) as demo:
        result = await demo.ended()
    assert (result.code, result.out) == (2, "")
    assert "demo_model_url needs demo_model" in result.err
    assert len(result.err.splitlines()) == 1

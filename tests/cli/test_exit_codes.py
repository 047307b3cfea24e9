"""What ends a service other than SIGTERM and SIGINT is no success, whatever code was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command import started
from runwire import Client

pytestmark = pytest.mark.crash


async def test_a_process_that_user_code_ends_with_0_fails_in_one_sentence(database: str) -> None:
    serve = ("serve", "--port", "0", "--admin-port", "0", "--agents", "cli.leaver:leaver")
    async with started(*serve, DATABASE_URL=database, PYTHONPATH=str(Path(__file__).parents[1])) as serving:
        line = {"event": ""}
        while line["event"] != "server_started":
            line = json.loads(await serving.line(within_s=60))
        async with Client(f"http://127.0.0.1:{line['port']}") as client:
            await client.start("leaver", input={"code": 0})
        result = await serving.ended(within_s=60)
    assert result.code == 1
    assert "sys.exit" in result.err
    assert "Traceback" not in result.err

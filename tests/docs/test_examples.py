"""The examples of the documentation, run as they stand against a real service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from docs.pages import DOCS, ROOT, RUNBOOK, Block, blocks
from runwire.assembly import Assembly
from runwire.client import Client, StartedRun
from runwire.model.run import RunState
from runwire.settings import Settings
from waiting import eventually

README = ROOT / "README.md"
AGENTS = DOCS / "agents.md"
CLIENTS = DOCS / "clients.md"
WITHIN_S = 30.0

API_IN_DOCS = "http://127.0.0.1:8080"


def titled(page: Path, language: str) -> dict[str, Block]:
    return {block.title: block for block in blocks(page, language)}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every agent of the documentation as the module its first line names."""
    for page in (README, AGENTS):
        for name, block in titled(page, "python").items():
            (tmp_path / name).write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("triage", "orders", "charge", "report", "review"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
async def service(database: str, examples: Path, tmp_path: Path) -> AsyncIterator[Assembly]:
    settings = Settings(
        database_url=database,
        bus="memory",
        port=0,
        admin_port=0,
        drain_s=2.0,
        content_url=str(tmp_path / "content"),
        agents=("triage:triage", "orders:orders", "charge:payments", "report:reporting", "review:review"),
    )
    async with Assembly(settings) as assembled:
        yield assembled


@pytest.fixture
async def client(service: Assembly) -> AsyncIterator[Client]:
    async with Client(service.url) as opened:
        yield opened


async def output_of(*command: str, cwd: Path, variables: dict[str, str] | None = None) -> str:
    """The output of the command, which must end with 0 and print no error."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **(variables or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, errors.decode()) == (0, ""), printed.decode()
    return printed.decode()


async def run_python(block: Block, *, service: Assembly, cwd: Path) -> str:
    script = cwd / block.title
    assert API_IN_DOCS in block.text
    script.write_text(block.text.replace(API_IN_DOCS, service.url))
    return await output_of(sys.executable, str(script), cwd=cwd)


async def run_shell(block: Block, *, service: Assembly, cwd: Path, run_id: str = "RUN_ID") -> str:
    text = block.text.replace(API_IN_DOCS, service.url).replace("RUN_ID", run_id)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # `runwire` is beside Python
    variables = {"API": service.url, "ADMIN": service.admin_url, "PATH": path}
    return await output_of("bash", "-euo", "pipefail", "-c", text, cwd=cwd, variables=variables)


async def outcome(client: Client, run: StartedRun) -> tuple[RunState, list[str]]:
    """How the run ended, and the names and fns of its events."""
    stream = client.stream(run)
    said = [event.name or event.fn or "" async for event in stream]
    assert stream.end is not None
    return stream.end.state, [word for word in said if word]


# ---------------------------------------------------------------------- README


async def test_the_readme_s_client_follows_the_readme_s_agent(service: Assembly, examples: Path) -> None:
    printed = await run_python(titled(README, "python")["ask.py"], service=service, cwd=examples)
    assert printed.splitlines() == [
        "1 RunStarted ",
        "2 NodeStarted Classify",
        "3 DebugTrace classify.labelled",
        "4 NodeFinished Classify",
        "5 NodeStarted Answer",
        "6 NodeFinished Answer",
        "7 RunFinished ",
        "Have you tried turning it off and on again?",
    ]


async def test_the_readme_s_agent_escalates_hard_questions(client: Client) -> None:
    run = await client.start("triage", input={"question": "Why does it stop every third Tuesday at noon?"})
    assert (await outcome(client, run))[0] is RunState.FINISHED
    assert (await client.state(run)).state["answer"] == "A human will call you."


async def test_the_readme_s_curl_follows_golden_to_its_end(service: Assembly, tmp_path: Path) -> None:
    block = titled(README, "sh")["start a run and follow it to its end"]
    printed = await run_shell(block, service=service, cwd=tmp_path)
    assert '"accepted":true' in printed
    assert printed.count("\ndata: ") == 13 + 1
    assert '"state":"finished","lastSeq":13' in printed


# ---------------------------------------------------------------------- agents


@pytest.mark.parametrize(
    ("item", "ended", "last_words"),
    [
        ("book", RunState.FINISHED, ["Ship", "Ship"]),
        ("rare", RunState.FINISHED, ["error:out_of_stock:ship", "Backorder", "Backorder"]),
        ("unknown", RunState.FAILED, ["error:no_such_item:price"]),
    ],
)
async def test_orders_goes_the_way_the_page_says(
    item: str, ended: RunState, last_words: list[str], client: Client
) -> None:
    state, said = await outcome(client, await client.start("orders", input={"item": item}))
    assert state is ended
    assert said[-len(last_words) :] == last_words


async def test_a_failed_try_leaves_no_trace_in_the_state(client: Client) -> None:
    run = await client.start("orders", input={"item": "rare"})
    await outcome(client, run)
    assert (await client.state(run)).state["tried"] == ["backorder"]


async def test_an_expensive_order_waits_for_the_signal_the_page_sends(
    client: Client, service: Assembly, tmp_path: Path
) -> None:
    run = await client.start("orders", input={"item": "grandfather clock"})

    async def waits() -> bool:
        return (await client.run(run)).waiting_for == "approved"

    await eventually(waits)
    (signal,) = [block for block in blocks(AGENTS, "sh") if "/signal" in block.text]
    await run_shell(signal, service=service, cwd=tmp_path, run_id=run.run_id)
    assert (await outcome(client, run))[0] is RunState.FINISHED


async def test_an_input_that_lacks_a_field_without_default_is_refused(client: Client) -> None:
    with pytest.raises(Exception, match="item"):
        await client.start("orders", input={})


async def test_the_idempotent_node_leaves_its_receipt(client: Client) -> None:
    run = await client.start("payments", input={"amount": 5})
    assert (await outcome(client, run))[0] is RunState.FINISHED
    assert (await client.state(run)).state["receipt"] == f"{run.run_id}:charge"


async def test_the_reporting_agent_shows_a_part_an_artifact_and_a_result(client: Client) -> None:
    run = await client.start("reporting", input={"text": "how many words"})
    state, said = await outcome(client, run)
    assert state is RunState.FINISHED
    assert {"part:answer:1:opened", "part:answer:1:sealed", "artifact:report.csv:2"} & set(said)
    assert [artifact.name for artifact in await client.artifacts(run)] == ["answer", "report.csv", "result"]
    assert await client.artifact(run, 2) == b"words\n3\n"
    assert await client.result(run) == {"words": 3, "report": 2}


async def test_the_reviewed_draft_goes_on_with_the_signal_that_the_page_sends(
    client: Client, service: Assembly, tmp_path: Path
) -> None:
    run = await client.start("review")

    async def waits() -> bool:
        return (await client.run(run)).waiting_for is not None

    await eventually(waits)
    (command,) = [block for block in blocks(AGENTS, "sh") if "run signal" in block.text]
    told = command.text.replace("runwire run", f"{sys.executable} -m runwire run").strip()
    await run_shell(
        Block(command.page, command.language, command.line, f"{told} --url {service.url}"),
        service=service, cwd=tmp_path, run_id=run.run_id,
    )  # fmt: skip
    assert (await outcome(client, run))[0] is RunState.FINISHED
    assert (await client.state(run)).state["notes"] == ["asked", "approved by Ann: Go ahead."]


# ---------------------------------------------------------------------- clients


async def test_the_answer_is_read_while_it_is_made_and_afterwards(
    service: Assembly, client: Client, tmp_path: Path
) -> None:
    printed = await run_python(titled(CLIENTS, "python")["read_answer.py"], service=service, cwd=tmp_path)
    lines = printed.splitlines()
    assert lines[0] == "COUNT THESE FOUR WORDS "
    assert [line.split()[1] for line in lines[1:3]] == ["answer", "report.csv"]
    assert lines[-1] == "{'words': 4, 'report': 2}"
    shell = titled(CLIENTS, "sh")["an answer, while it is made and afterwards"]
    printed = await run_shell(shell, service=service, cwd=tmp_path)
    assert "event: part" in printed
    assert "COUNT THESE FOUR WORDS " in printed
    assert printed.endswith('{"words":4,"report":2}')


async def test_a_signal_with_an_id_counts_once(service: Assembly, tmp_path: Path) -> None:
    printed = await run_python(titled(CLIENTS, "python")["approve.py"], service=service, cwd=tmp_path)
    assert printed == "['asked', 'approved by Ann: Go ahead.']\n"


async def test_the_runs_of_a_session_are_listed_and_followed_together(service: Assembly, tmp_path: Path) -> None:
    printed = await run_python(titled(CLIENTS, "python")["chat.py"], service=service, cwd=tmp_path)
    assert printed.splitlines() == ["golden chat-17 search"] * 2 + ["over: finished"] * 2


async def test_an_external_run_has_content_and_hears_its_signals(service: Assembly, tmp_path: Path) -> None:
    printed = await run_python(titled(CLIENTS, "python")["orchestrate.py"], service=service, cwd=tmp_path)
    assert printed.splitlines() == ["1 stop {'reason': 'enough'}", "['rows.csv']"]


async def test_the_curl_examples_show_the_whole_run_and_its_end(service: Assembly, tmp_path: Path) -> None:
    shell = titled(CLIENTS, "sh")
    whole = await run_shell(shell["start a run and follow it to its end"], service=service, cwd=tmp_path)
    assert whole.count("\ndata: ") == 13 + 1
    looked = await run_shell(shell["look at it"], service=service, cwd=tmp_path)
    assert '"state":"finished"' in looked
    assert looked.count('"seq":11') == 2, "once in the page, once in the stream"


async def test_the_external_orchestrator_in_curl_finishes_its_run(
    service: Assembly, client: Client, tmp_path: Path
) -> None:
    printed = await run_shell(titled(CLIENTS, "sh")["an external run from start to end"], service=service, cwd=tmp_path)
    assert '"seqs":[1,2]' in printed
    view = await client.run("import-1")
    assert (view.state, view.last_seq, view.agent) == (RunState.FINISHED, 4, "nightly-import")


@pytest.mark.parametrize(("name", "last_line"), [("follow.py", "finished 13"), ("plain_sse.py", "13 RunFinished")])
async def test_the_python_examples_print_the_whole_run(
    name: str, last_line: str, service: Assembly, tmp_path: Path
) -> None:
    printed = await run_python(titled(CLIENTS, "python")[name], service=service, cwd=tmp_path)
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[:13]] == [str(n) for n in range(1, 14)]
    assert lines[-1] == last_line


@pytest.mark.node
async def test_the_external_orchestrator_in_javascript_finishes_its_run(
    service: Assembly, client: Client, tmp_path: Path
) -> None:
    block = titled(CLIENTS, "js")["import.mjs"]
    (tmp_path / "import.mjs").write_text(block.text.replace(API_IN_DOCS, service.url))
    run_id, last_seq = (await output_of("node", "import.mjs", cwd=tmp_path)).split()
    view = await client.run(run_id)
    assert (view.state, view.last_seq, last_seq) == (RunState.FINISHED, 11, "11")


@pytest.mark.node
@pytest.mark.parametrize("name", ["watch a run", "follow.mjs"])
async def test_the_javascript_that_needs_a_browser_or_a_package_is_well_formed(name: str, tmp_path: Path) -> None:
    (tmp_path / "example.mjs").write_text(titled(CLIENTS, "js")[name].text)
    await output_of("node", "--check", "example.mjs", cwd=tmp_path)


# ---------------------------------------------------------------------- the runbook's commands


async def test_the_runbook_s_commands_do_what_they_are_for(
    service: Assembly, client: Client, database: str, tmp_path: Path
) -> None:
    run = await client.start("orders", input={"item": "grandfather clock"}, run_id="stuck")

    async def waits() -> bool:
        return (await client.run(run)).state is RunState.WAITING

    await eventually(waits)
    commands = [block for block in blocks(RUNBOOK, "sh") if "$API" in block.text or "$ADMIN" in block.text]
    variables = {
        "API": service.url,
        "ADMIN": service.admin_url,
        "PUBLIC": service.url,
        "RUN_ID": "stuck",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    said: dict[str, str] = {}
    for block in commands:
        # The runbook cancels before it reads the stream, so the stream has an end.
        said[block.text] = await output_of(
            "bash", "-euo", "pipefail", "-c", block.text, cwd=tmp_path, variables=variables
        )
    readiness, *_ = said.values()
    assert json.loads(readiness.partition("\n")[0])["ready"] is True
    assert "runwire_events_published_total" in readiness
    assert (await client.run(run)).cancel_requested
    streams = [text for command, text in said.items() if "/stream" in command]
    assert [text.count("event: end") for text in streams] == [1, 2], "the second: directly, and through the proxy"
    assert (await client.run(run)).state in (RunState.CANCELLED, RunState.FINISHED)


# ---------------------------------------------------------------------- operations


async def connected_as(database: str) -> set[str]:
    connection = await asyncpg.connect(database)
    try:
        rows: list[Any] = await connection.fetch(
            "SELECT application_name FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return {row["application_name"] for row in rows}
    finally:
        await connection.close()


async def test_a_process_connects_under_the_names_that_operations_lists_and_no_others(
    database: str, tmp_path: Path
) -> None:
    chapter = (DOCS / "operations.md").read_text().split("\n## Sizing\n")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in chapter.splitlines() if line.startswith("| `runwire")]
    listed = {name.strip(" `") for cell in first_cells for name in cell.split(",")}
    settings = Settings(database_url=database, bus="postgres", port=0, admin_port=0, drain_s=2.0)
    async with Assembly(settings) as service, Client(service.url) as client:
        await outcome(client, await client.start(run_id="run"))
        # The second append connection is opened when an append has waited for the first one's commit for a while.
        blocker = await asyncpg.connect(database, server_settings={"application_name": "runwire pool"})
        await blocker.execute("BEGIN; LOCK TABLE run_events IN SHARE MODE")
        runs = [await client.start(run_id=f"run-{n}") for n in range(4)]

        async def all_listed_are() -> bool:
            return await connected_as(database) >= listed

        await eventually(all_listed_are)
        await blocker.close()
        for run in runs:
            await outcome(client, run)
        assert await connected_as(database) == listed

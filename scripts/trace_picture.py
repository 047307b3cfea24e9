"""Makes docs/img/trace.png: `make trace-picture`. `--again` draws the spans of the last time.

Runs the service in four processes, kills a worker in the middle of a run, fetches the spans from the backend they were
sent to, and draws them.
"""  # noqa: INP001  # a script

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from waterfall import Lane, Moment, rows_of, waterfall

import runwire
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.telemetry.traceparent import mint_trace
from traces.backend import VERSION, TraceBackend, backend
from traces.traced_fleet import told, traced_fleet
from waiting import eventually

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs" / "img" / "trace.png"
SPANS: Final = ROOT / ".cache" / "trace-picture.json"
NODE_MS: Final = 900
LANES: Final = {
    "api-0": Lane("api", "#2f6fde", "#dbe7fc"),
    "worker-1": Lane("worker-1", "#d9822b", "#fcebd7"),
    "worker-2": Lane("worker-2", "#7d4fc4", "#e9dffa"),
    "publisher-3": Lane("publisher", "#1f9d78", "#d5f2e8"),
    "database": Lane("PostgreSQL, as seen by its caller", "#5b6675", "#e6e9ee"),
}
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")


async def captured(folder: Path) -> dict[str, Any]:
    """A run of the agent golden whose worker is killed in its third node, as its spans tell of it."""
    with backend(folder) as traces:
        async with EmbeddedPostgres(EmbeddedOptions(folder / "postgres")) as postgres:
            return await _run(postgres.dsn, folder, traces)


async def _run(dsn: str, folder: Path, traces: TraceBackend) -> dict[str, Any]:
    caller = mint_trace(sampled=True)
    async with traced_fleet("api", "worker", "worker", "publisher", database=dsn, logs=folder, to=traces) as fleet:
        async with runwire.Client(fleet.members[0].url) as client:
            run = await client.start("golden", input={"delay_ms": NODE_MS}, traceparent=str(caller))
            following = asyncio.create_task(_followed(client, run.run_id))

            def two_nodes_sent() -> bool:
                return any(span.name == "invoke_node Warmup" for span in traces.spans(caller.trace_id))

            await eventually(two_nodes_sent, within_s=30)
            walker = next(member for member in fleet.of("worker") if _walks(member.lines()))
            walker.kill()
            killed_ns = time.time_ns()
            await following
        await told(fleet)
    lanes: dict[str, str] = {}
    spans = []
    for span in traces.spans(caller.trace_id):
        process = span.resource["service.instance.id"]
        if span.name.startswith("invoke_agent") and span.attributes["runwire.outcome"] == "finished":
            lanes[process] = span.attributes["runwire.worker"]
        spans.append(asdict(span))
    for span in spans:
        span["lane"] = _lane(span, lanes, killed=walker.name)
    return {
        "run_id": run.run_id,
        "trace_id": caller.trace_id,
        "killed": walker.name,
        "killed_ns": killed_ns,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "spans": spans,
    }


def _walks(lines: list[dict[str, Any]]) -> bool:
    return any(line.get("event") == "run_started" for line in lines)


async def _followed(client: runwire.Client, run_id: str) -> None:
    async for _ in client.stream(run_id):
        pass


def _lane(span: dict[str, Any], workers: dict[str, str], *, killed: str) -> str:
    """Which process did it: of a lost turn, that is not the one which sent it."""
    if span["name"].startswith("invoke_agent"):
        return str(span["attributes"]["runwire.worker"])
    if "db.system" in span["attributes"] or "db.system.name" in span["attributes"]:
        return "database"
    role = span["resource"]["runwire.roles"][0]
    if role == "worker":
        return workers.get(span["resource"]["service.instance.id"], killed)
    return next(name for name in LANES if name.startswith(role))


def drawn(found: dict[str, Any], *, browser: str) -> None:
    version = subprocess.run([browser, "--version"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    sent_by = (
        "Four processes over one PostgreSQL. The hatched turn was sent by the worker that went on: from the claim to "
        "the end of the lease. send and process are linked to POST, too."
    )
    made_by = (
        f"Made by make trace-picture on {found['made']}: the {len(found['spans'])} spans of one run of runwire "
        f"{runwire.__version__}, fetched from ddapm-test-agent {VERSION}, drawn by {version.split(' built')[0]}."
    )
    svg, height = waterfall(
        rows_of(found["spans"], lanes=LANES),
        lanes=list(LANES.values()),
        title="One run, one trace, one dead worker",
        subtitle=f"trace {found['trace_id']} \N{MIDDLE DOT} run {found['run_id']} \N{MIDDLE DOT} agent golden",
        footer=(sent_by, made_by),
        moments=[Moment(found["killed_ns"], f"kill -9 {found['killed']}")],
    )
    PICTURE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "trace.html"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>body{{margin:0}}svg{{display:block}}</style>{svg}")
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={name}/profile", "--force-device-scale-factor=2", f"--window-size=1400,{height}"]
        command += [f"--screenshot={PICTURE}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="draw the spans of the last time")
    again = parser.parse_args().again
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        parser.error("needs Chromium")
    if not again:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o755)  # PostgreSQL is run as another user when we are root
            found = asyncio.run(captured(Path(name)))
        SPANS.parent.mkdir(exist_ok=True)
        SPANS.write_text(json.dumps(found))
    drawn(json.loads(SPANS.read_text()), browser=browser)
    print(PICTURE.relative_to(ROOT))  # noqa: T201  # its result


if __name__ == "__main__":
    main()

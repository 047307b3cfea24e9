"""The same against a real S3 API."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from archive.history import Archive, read, run_of
from runwire.archive import open_store
from runwire.archive.cold import ColdLog
from runwire.archive.ledger import Ledger
from runwire.archive.retention import Archiver, Did
from runwire.archive.verifying import Verifier
from runwire.archive.watching import Watcher
from runwire.db import Database
from runwire.errors import ArchiveCorrupt, ArchiveUnavailable, CursorExpired
from runwire.stream import LogReader
from waiting import eventually

BUCKET = "archive-of-tests"
SOMEBODY = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@pytest.fixture
async def s3(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The endpoint of an S3 server of this test's own, with a bucket; the environment names it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        await eventually(lambda: asyncio.to_thread(_answers, endpoint), within_s=60)
        await asyncio.to_thread(asked, "PUT", f"{endpoint}/{BUCKET}")
        yield endpoint
    finally:
        process.kill()
        await process.wait()


def asked(method: str, url: str, body: bytes | None = None) -> bytes:
    """The server's answer; it requires a name, and no proof of it. Raises OSError."""
    request = urllib.request.Request(url, data=body, method=method, headers={"Authorization": SOMEBODY})  # noqa: S310  # ours, on this machine
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # as above
        found: bytes = answer.read()
    return found


def _answers(endpoint: str) -> bool:
    try:
        return bool(asked("GET", endpoint))
    except OSError:
        return False


async def test_runs_are_archived_to_s3_proven_and_read_from_there(database: str, s3: str, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/some/prefix"
    async with Database(database) as connected:
        here = Archive(connected, tmp_path)  # for its metrics only
        logs = {f"r{n}": await run_of(connected, f"r{n}", events=20 + 700 * n) for n in range(4)}
        archiver = Archiver(connected, open_store(url), metrics=here.metrics, writer="runwire tests")
        done = []
        while (step := await archiver.step()).did is not Did.NOTHING:
            done.append(step.did)
        assert done == [Did.WROTE, Did.VERIFIED, Did.DROPPED]
        await archiver.aclose()
        cold = ColdLog(connected, lambda: open_store(url), metrics=here.metrics)
        reader = LogReader(connected, cold=cold)
        assert {run_id: await read(reader, run_id) for run_id in logs} == logs
        listing = (await asyncio.to_thread(asked, "GET", f"{s3}/{BUCKET}?list-type=2")).decode()
        keys = re.findall(r"<Key>([^<]+)</Key>", listing)
        assert sorted(key.rpartition(".")[2] for key in keys) == ["json", "json", "zst"]
        assert "some/prefix/runwire-archive.json" in keys
        [data] = [key for key in keys if key.endswith(".zst")]

        # A flipped bit is found, here as in a folder.
        body = bytearray(await asyncio.to_thread(asked, "GET", f"{s3}/{BUCKET}/{data}"))
        body[len(body) // 2] ^= 1
        await asyncio.to_thread(asked, "PUT", f"{s3}/{BUCKET}/{data}", bytes(body))
        ledger = Ledger(connected)
        [batch] = await ledger.batches()
        with pytest.raises(ArchiveCorrupt):
            await Verifier(ledger, open_store(url), watcher=Watcher()).verify(batch)

        # Gone by a lifecycle rule is gone; another prefix is a mistake, and no loss.
        await asyncio.to_thread(asked, "DELETE", f"{s3}/{BUCKET}/{data}")
        fresh = LogReader(connected, cold=ColdLog(connected, lambda: open_store(url), metrics=here.metrics))
        with pytest.raises(CursorExpired):
            await read(fresh, "r1")
        wrong = ColdLog(connected, lambda: open_store(f"s3://{BUCKET}/other"), metrics=here.metrics)
        with pytest.raises(ArchiveUnavailable):
            await read(LogReader(connected, cold=wrong), "r1")
        nowhere = ColdLog(connected, lambda: open_store("s3://no-such-bucket/x"), metrics=here.metrics)
        with pytest.raises(ArchiveUnavailable):
            await read(LogReader(connected, cold=nowhere), "r1")

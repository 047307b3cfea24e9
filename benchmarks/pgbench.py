"""The yardstick: pgbench doing the same durable append, one event per transaction, in one prepared statement."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from runwire.db.embedded_binaries import find_binaries

SCRIPT = """\
\\set n random(1, {runs})
WITH minted AS (
    UPDATE runs SET last_seq = last_seq + 1
    WHERE run_id = 'bench-' || :n AND fence = 1 AND state NOT IN ('finished', 'failed', 'cancelled')
    RETURNING run_day, run_id, last_seq
)
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, fn)
SELECT run_day, run_id, last_seq, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 'DebugTrace', 'api', 'a.b'
FROM minted;
"""


@dataclass(frozen=True, slots=True)
class PgbenchResult:
    clients: int
    per_s: float
    p50_ms: float
    p99_ms: float


async def pgbench(dsn: str, *, clients: int, runs: int, seconds: int) -> PgbenchResult:
    """Transactions a second of `clients` connections that append to `runs` existing runs."""
    binary = shutil.which("pgbench", path=str(find_binaries().bin_dir)) or shutil.which("pgbench")
    if binary is None:
        raise SystemExit("pgbench is not installed: apt-get install postgresql-contrib, or postgresql-client")
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    with tempfile.TemporaryDirectory() as folder:
        script, log = Path(folder) / "append.sql", Path(folder) / "log"
        script.write_text(SCRIPT.format(runs=runs))
        process = await asyncio.create_subprocess_exec(
            binary, "-n", "-M", "prepared", "-f", str(script), "-c", str(clients), "-j", "2", "-T", str(seconds),
            "-l", "--log-prefix", str(log),
            "-h", parts.hostname or query["host"][0], "-p", str(parts.port or query.get("port", ["5432"])[0]),
            "-U", parts.username or "postgres", Path(parts.path).name,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = (await process.communicate())[0].decode()
        # The third column of each line is the transaction's latency in us.
        latencies = [int(line.split()[2]) for file in Path(folder).glob("log*") for line in file.open()]
    tps = re.search(r"tps = ([\d.]+)", output)
    if process.returncode != 0 or tps is None:
        raise SystemExit(f"pgbench failed:\n{output}")
    cuts = statistics.quantiles(latencies, n=100)
    return PgbenchResult(clients, float(tps[1]), cuts[49] / 1000, cuts[98] / 1000)

"""runwire behind the interface of its peers: the whole way, from the durable append to the socket, in one process."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.in_process import append_throughput, log_only
from benchmarks.peers import Throughput
from benchmarks.programs import post
from benchmarks.stand import Serving

SETTINGS = (
    "one process with every role, metrics on, PostgreSQL 18.4 with fsync and synchronous_commit on; appends by "
    "callers in the process, as agents make them"
)


@dataclass(slots=True)
class Ours:
    serving: Serving
    dsn: str
    path: str = "/api/agents/runs/%s/stream?fromSeq=1"
    mark: str = "data: {"

    @property
    def port(self) -> int:
        return self.serving.port

    async def runs(self, prefix: str, count: int) -> None:
        await self.serving.do("runs", prefix=prefix, count=count)

    async def count(self, prefix: str, runs: int, *, callers: int, events: int) -> None:
        await self.serving.do("count", prefix=prefix, runs=runs, callers=callers, events=events)

    async def rate(self, prefix: str, runs: int, *, rate: float, seconds: float) -> int:
        found = await self.serving.do("rate", prefix=prefix, runs=runs, rate=rate, seconds=seconds)
        return int(found["appended"])

    async def throughput(self, prefix: str, runs: int, *, callers: int, seconds: float) -> Throughput | None:
        run_ids = [f"{prefix}-{n}" for n in range(runs)]
        async with log_only(self.dsn) as log:
            await append_throughput(log, run_ids, callers=callers, seconds=0.3)  # warms plans and connections
            found = await append_throughput(log, run_ids, callers=callers, seconds=seconds)
        return Throughput(found.per_s, found.p50_ms, found.p99_ms)

    async def throughput_over_http(self, prefix: str, runs: int, *, callers: int, seconds: float) -> Throughput:
        found = await post(self.port, producers=callers, runs=runs, prefix=prefix, batch=1, seconds=seconds)
        return Throughput(found["events"] / found["s"], found["p50_ms"], found["p99_ms"])

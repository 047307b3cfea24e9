"""Deliveries a second of one process, beside a C program that writes the same bytes to as many clients.

The events reach the watches from the bus, so this is the stream stage by itself; appends and publishing are measured
end to end.
"""

from __future__ import annotations

from benchmarks.programs import crowd, floor
from benchmarks.stand import Stand
from runwire.model.event import StoredEvent, WireEncoder
from runwire.stream.sse import event_frame

NAME = "fan-out"
TITLE = "Fan-out: deliveries/s of one process, and of a C epoll server"
SHAPES = ((1, 100), (1, 1000), (1, 5000), (1, 10_000), (1000, 5000))
JOINED = (1, 10)


def frame_bytes(prefix: str) -> int:
    event = StoredEvent(1000, 1_700_000_000_000_000, "DebugTrace", None, "a.b")
    return len(event_frame(event.seq, WireEncoder(f"{prefix}-0").json(event)))


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for runs, clients in SHAPES:
        for joined in JOINED:
            prefix = stand.prefix()
            # About as long for every shape: some 250,000 deliveries of single events a second, ten times that joined.
            per_run = max(20, round(stand.seconds * 250_000 * (5 if joined > 1 else 1) / clients / joined)) * joined
            async with stand.serving("fan_out") as serving:
                await serving.do("runs", prefix=prefix, count=runs)
                async with crowd(serving.port, clients=clients, runs=runs, prefix=prefix, after=1) as listening:
                    await serving.do("emit", prefix=prefix, runs=runs, events=10 * joined, joined=joined)
                    await listening.expect(10 * joined * clients)
                    await listening.reset()
                    await serving.do("emit", prefix=prefix, runs=runs, events=per_run, joined=joined)
                    found = await listening.expect(per_run * clients)
                    lost = per_run * clients - found["deliveries"]
            async with (
                floor(frame_bytes=frame_bytes(prefix)) as (port, floor_talk),
                crowd(port, clients=clients, runs=runs, prefix=prefix) as listening,
            ):
                await floor_talk.ask(f"emit {10 * joined} {joined} 0")
                await listening.expect(10 * joined * clients)
                await listening.reset()
                await floor_talk.ask(f"emit {per_run} {joined} 0")
                least = await listening.expect(per_run * clients)
            shape = f"{runs} run{'s' if runs > 1 else ''} x {clients // runs} clients, {joined} a tick"
            rows[shape] = {
                "deliveries/s": found["deliveries"] / found["s"],
                "C floor": least["deliveries"] / least["s"],
                "missing": lost,
            }
    return rows


def compare(rows: dict[str, dict[str, float]]) -> None:
    for row in rows.values():
        row["x floor"] = row["deliveries/s"] / row["C floor"]

"""Whether a stream arrives as it is produced: a slowed golden run, watched through whatever is in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire import clock
from runwire.agents.golden import golden
from runwire.client import Client
from runwire.db.health import Finding
from runwire.errors import RunwireError
from runwire.model.run import RunState

DELAY_MS: Final = 300
"""Of each of golden's nodes: the run takes as many times that as it has nodes."""
GOLDEN_EVENTS: Final = 13
PATIENCE_S: Final = 60.0
RETRY_S: Final = 5.0
PRODUCED_SHARE: Final = 0.5
"""Events spread over less than this share of the time they were made in were held back."""

_REMEDY: Final = (
    "turn off response buffering for /api/agents/runs/*/stream: nginx `proxy_buffering off;` (it also heeds our header "
    "`X-Accel-Buffering: no` unless `proxy_ignore_headers` names it), no gzip for text/event-stream, "
    "and no CDN that collects responses"
)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When events were made, by the service's clock, and when they came, by ours. Milliseconds."""

    made: tuple[int, ...]
    came: tuple[int, ...]

    @property
    def made_over_ms(self) -> int:
        return self.made[-1] - self.made[0]

    @property
    def came_over_ms(self) -> int:
        return self.came[-1] - self.came[0]

    @property
    def held_back(self) -> bool:
        """No clock has to agree with another: only how far the events are apart is compared."""
        return self.came_over_ms < self.made_over_ms * PRODUCED_SHARE


async def examine_url(url: str, *, token: str | None = None) -> list[Finding]:
    """Starts a run at `url` and watches it. When the service cannot be reached, there is only that."""
    asked = Client(url, token=token, retry_s=RETRY_S)
    try:
        async with asked as client:
            run = await client.start(golden.name, input={"delay_ms": DELAY_MS})
            stream = client.stream(run, patience_s=PATIENCE_S)
            arrivals = [(event.ts, clock.wall_us() // 1000) async for event in stream]
            state = stream.end.state if stream.end is not None else None
    except RunwireError as error:
        remedy = "check the URL, that `runwire serve` runs with role api and worker, and the proxies in between"
        return [Finding("service", ok=False, seen=str(error), remedy=remedy)]
    whole = len(arrivals) == GOLDEN_EVENTS and state is RunState.FINISHED
    findings = [
        Finding(
            "service",
            ok=whole,
            seen=f"golden run {run.run_id} {state}, {len(arrivals)} events",
            remedy=""
            if whole
            else f"see `runwire run show {run.run_id} --url {asked.base_url}` and the run diagnostics runbook",
        )
    ]
    if arrivals:
        findings.append(judged(Arrivals(*zip(*arrivals, strict=True)), connections=stream.connections))
    return findings


def judged(arrivals: Arrivals, *, connections: int = 1) -> Finding:
    """The finding on buffering."""
    over = f"events made over {arrivals.made_over_ms} ms came over {arrivals.came_over_ms} ms"
    again = f", on {connections} connections" if connections > 1 else ""
    if arrivals.held_back:
        return Finding("buffering", ok=False, seen=f"a proxy holds the stream back: {over}{again}", remedy=_REMEDY)
    return Finding("buffering", ok=True, seen=over + again)

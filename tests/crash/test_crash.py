"""Clients see every event once, in order, to the end, while processes die under them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from crash.chaos import Chaos
from crash.fleet import QUICK_TAKEOVER, Fleet, Member, fleet_of
from crash.stored import stored_events
from crash.subscriber import Moods, Subscriber, Tally
from crash.wire import posted
from waiting import eventually

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

RUNS = "/api/agents/runs"
PLAN = ("EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown")
ROLES = ("api", "api", "worker", "worker", "publisher")
RUN_COUNT = 200
WATCHED_BY_SEVERAL = 5
FICKLE = Moods()
OBEDIENT = Moods(drop=0.0, reread=0.0, obedient=True)
RUNS_MAX = 300


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_subscribers_get_every_event_once_while_processes_are_killed(
    seed: int, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    began = time.monotonic()
    tally = Tally()
    async with fleet_of(ROLES, database=database, logs=tmp_path) as fleet:
        chaos = Chaos(fleet, rng=random.Random(rng.random()))
        async with _audience(fleet, within_s=150) as audience:
            audience.also(chaos.run(kills=9, freezes=3, gap_s=(0.6, 1.8)))
            for number in range(RUN_COUNT):
                audience.start_and_watch(number, rng=random.Random(rng.random()), tally=tally)
        subscribers = audience.subscribers
        await asyncio.gather(*(subscriber.ask_again() for subscriber in rng.sample(subscribers, 20)))
        took_s = time.monotonic() - began
        resumed = await _check_against_database(database, subscribers, runs=RUN_COUNT)
        assert resumed > 0
        assert min(tally.resumes, tally.cut, tally.dropped) > 0
        assert fleet.errors() == []
    with capsys.disabled():
        print(  # noqa: T201  # the seed and what it did
            f"\ncrash seed={seed}: {RUN_COUNT} runs, {len(subscribers)} subscribers, "
            f"{sum(len(s.events) for s in subscribers)} events in {took_s:.1f} s; "
            f"killed {dict(chaos.kills)}, frozen {dict(chaos.freezes)}; {resumed} walks resumed; {tally}"
        )


async def test_a_rolling_restart_loses_nothing_cuts_nobody_off_and_nobody_waits_five_seconds(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    environment = {name: value for name, value in QUICK_TAKEOVER.items() if name != "RUNWIRE_SSE_RETRY_MS"}
    runs = 0
    async with fleet_of(
        ["api+worker+publisher"] * 3, database=database, logs=tmp_path, environment=environment
    ) as fleet:
        async with _audience(fleet, within_s=150) as audience:
            for member in fleet.members:
                # Workers claim freely, so start more runs until this worker has some.
                while runs < RUNS_MAX and not await _walks_and_streams(database, member):
                    rng = random.Random(runs)
                    audience.start_and_watch(runs, rng=rng, tally=tally, moods=OBEDIENT, spread_s=0.1, node_s=1.5)
                    runs += 1
                    await asyncio.sleep(0.1)  # the pace at which runs are started
                code = await member.terminate()
                assert code == 0, f"{member.name}: {code}\n{member.last_words()}"
                assert member.lines()[-1]["event"] == "server_stopped"
                await member.start()
        subscribers = audience.subscribers
        handed_over = await _check_against_database(database, subscribers, runs=runs)
        assert handed_over > 0
        assert tally.resumes > 0
        for subscriber in subscribers:
            started = [event["name"] for event in subscriber.events if event["type"] == "NodeStarted"]
            assert started == list(PLAN), "a run that is handed over starts no node twice"
        assert tally.cut == 0, "every stream ended by its own last chunk"
        assert 0 < tally.longest_wait_s < 5
        assert fleet.errors() == []
    with capsys.disabled():
        print(f"\nrolling restart: {runs} runs, {handed_over} handed over; {tally}")  # noqa: T201  # as above


async def test_a_service_with_its_own_postgres_goes_on_after_every_kill(tmp_path: Path) -> None:
    service = Member(
        "api-alone",
        logs=tmp_path,
        environment={**QUICK_TAKEOVER, "RUNWIRE_DATA_DIR": str(tmp_path / "data")},
    )
    tally = Tally()
    runs = 20
    await service.start()
    try:
        async with _audience(Fleet([service]), within_s=150) as audience:
            for number in range(runs):
                audience.start_and_watch(number, rng=random.Random(number), tally=tally, spread_s=0.5, node_s=0.8)
            for _ in range(3):
                await asyncio.sleep(1.5)  # how long a life lasts: enough for some nodes, not for a run
                service.kill()
                await service.start()
        resumed = sum(_check_golden(subscriber.events) for subscriber in audience.subscribers)
        assert resumed >= runs, "every run was in flight at one kill at least"
        assert Fleet([service]).errors() == []
        assert await service.terminate() == 0
    finally:
        service.discard()


# ---------------------------------------------------------------------- parts of the story


class Audience:
    """Everybody who starts and watches runs of a fleet."""

    def __init__(self, fleet: Fleet, everybody: asyncio.TaskGroup) -> None:
        self.subscribers: list[Subscriber] = []
        self._fleet = fleet
        self._everybody = everybody

    def also(self, work: Coroutine[Any, Any, None]) -> None:
        self._everybody.create_task(work)

    def start_and_watch(
        self,
        number: int,
        *,
        rng: random.Random,
        tally: Tally,
        moods: Moods = FICKLE,
        spread_s: float = 5.0,
        node_s: float = 2.0,
    ) -> None:
        """Starts a run sometime within `spread_s`, and follows it with one subscriber, or with several.

        Its nodes take up to `node_s` each.
        """
        self.also(self._start_and_watch(number, rng, tally, moods=moods, spread_s=spread_s, node_s=node_s))

    async def _start_and_watch(
        self, number: int, rng: random.Random, tally: Tally, *, moods: Moods, spread_s: float, node_s: float
    ) -> None:
        await asyncio.sleep(rng.uniform(0, spread_s))
        run_id = await _started(number, self._fleet.ports, rng=rng, delay_ms=round(rng.uniform(0.5, 1) * node_s * 1000))
        for _ in range(4 if number < WATCHED_BY_SEVERAL else 1):
            subscriber = Subscriber(run_id, self._fleet.ports, random.Random(rng.random()), tally, moods)
            self.subscribers.append(subscriber)
            self.also(subscriber.run())


@asynccontextmanager
async def _audience(fleet: Fleet, *, within_s: float) -> AsyncIterator[Audience]:
    """Left when everybody has everything; when nobody has got an event for so long it fails, and says who waits."""
    audience: Audience | None = None
    try:
        async with asyncio.timeout(within_s) as limit:
            postponing = asyncio.create_task(_postpone(limit, lambda: audience, by_s=within_s))
            try:
                async with asyncio.TaskGroup() as everybody:
                    audience = Audience(fleet, everybody)
                    yield audience
            finally:
                postponing.cancel()
    except TimeoutError:
        assert audience is not None
        waiting = [f"{s.run_id} has {len(s.events)}" for s in audience.subscribers if s.end is None]
        down = [member.name for member in fleet.members if not member.running]
        pytest.fail(f"nothing came for {within_s:g} s: {waiting}; not running: {down}; logged: {fleet.errors()}")


async def _postpone(limit: asyncio.Timeout, audience: Callable[[], Audience | None], *, by_s: float) -> None:
    """Gives the audience more time for as long as events come, however slow the machine is."""
    seen = 0
    while True:
        await asyncio.sleep(0.5)
        now = sum(len(subscriber.events) for subscriber in found.subscribers) if (found := audience()) else 0
        if now > seen:
            seen = now
            limit.reschedule(asyncio.get_running_loop().time() + by_s)


async def _started(number: int, ports: Sequence[int], *, rng: random.Random, delay_ms: int) -> str:
    """The id of the one run that comes of asking for it until somebody answers, and sometimes once more."""
    body: dict[str, Any] = {"agent": "golden", "input": {"delay_ms": delay_ms}}
    key = None
    if number % 2:
        key = f"order-{number}"
    else:
        body["runId"] = f"run-{number}"
    answers: list[str] = []
    wanted = rng.choice((1, 1, 2))
    while len(answers) < wanted:
        try:
            status, answer = await posted(rng.choice(ports), RUNS, body, key=key)
        except (OSError, EOFError):
            status, answer = 503, None
        if status == 503:
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            continue
        assert status == 202, answer
        assert (answer["accepted"], answer["status"]) == (True, "accepted")
        answers.append(answer["runId"])
    assert len(set(answers)) == 1, f"started twice: {answers}"
    return answers[0]


async def _walks_and_streams(dsn: str, member: Member) -> bool:
    """Whether the process walks runs and has streams open: what a restart has to move elsewhere."""
    connection = await asyncpg.connect(dsn)
    try:
        walks = await connection.fetchval(
            "SELECT count(*) >= 3 FROM runs WHERE starts_with(lease_owner, $1 || ':') AND state = 'started'",
            member.name,
        )
    finally:
        await connection.close()
    return bool(walks) and await member.metric("runwire_sse_connections") >= 1


async def _check_against_database(dsn: str, subscribers: Sequence[Subscriber], *, runs: int) -> int:
    """Clients saw what is stored, and nothing is left to do. Returns how many walks were resumed."""
    connection = await asyncpg.connect(dsn)
    try:

        async def nothing_left() -> bool:
            # A publisher killed between the bus and its commit has the last step to do again.
            return bool(await connection.fetchval("SELECT count(*) = 0 FROM run_outbox"))

        await eventually(nothing_left, within_s=10)
        stored = await connection.fetch(
            "SELECT run_id, state::text AS state, last_seq, attempt FROM runs ORDER BY run_id"
        )
        assert len(stored) == runs, "each start made one run"
        assert {row["run_id"] for row in stored} == {subscriber.run_id for subscriber in subscribers}
        assert {row["state"] for row in stored} == {"finished"}
        resumed = 0
        for subscriber in subscribers:
            assert await stored_events(connection, subscriber.run_id) == subscriber.events
            resumed += _check_golden(subscriber.events)
        return resumed
    finally:
        await connection.close()


def _check_golden(events: Sequence[dict[str, Any]]) -> int:
    """The log of a finished golden run, as one worker at a time writes it: returns how often it was resumed.

    Each node is finished once, in order; a node is started again only after `orchestrator.resumed`. Two workers that
    both believed the run was theirs would show here.
    """
    said = [(event["type"], event.get("name") or event.get("fn")) for event in events]
    assert said[0] == ("RunStarted", None), said
    assert said[-1] == ("RunFinished", None), said
    done, inside, checked, resumed = 0, False, False, 0
    for type_, label in said[1:-1]:
        if (type_, label) == ("DebugTrace", "orchestrator.resumed"):
            inside = checked = False
            resumed += 1
        elif type_ == "NodeStarted":
            assert not inside, said
            assert label == PLAN[done], said
            inside, checked = True, False
        elif type_ == "DebugTrace":
            assert (label, inside, done, checked) == ("ensureDevice.check", True, 0, False), said
            checked = True
        else:
            assert (type_, label, inside) == ("NodeFinished", PLAN[done], True), said
            assert done > 0 or checked, said
            done, inside = done + 1, False
    assert (done, inside) == (len(PLAN), False), said
    return resumed

"""For any behaviour of its nodes, a run's log reads as one walk, and one commit has a node's end and what follows
it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import Stages, stages
from runwire import END, Agent, Context, NodeFailed
from runwire.orchestrate import StartRequest
from waiting import eventually

NODES = ("A", "B", "C", "D")
DEEDS = ("end", "trace", "fail once", "fail", "cancel")
"""The behaviour of a node. `cancel` asks for it of the database alone: the worker hears of it with its next commit."""


@dataclass
class Script:
    deeds: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)


def scripted(s: list[Stages]) -> Agent[Script]:
    agent: Agent[Script] = Agent("scripted", start="A", state=Script)

    def made(n: int) -> None:
        @agent.node(
            name=NODES[n], to=(*NODES[n + 1 : n + 2], END) if n + 1 < len(NODES) else END, retries=1, backoff_s=0
        )
        async def work(ctx: Context, state: Script) -> str:
            state.ran.append(NODES[n])
            deed = state.deeds[n]
            if deed == "trace":
                ctx.trace("a.b")
            elif deed == "cancel":
                await s[0].control.cancel(ctx.run_id)
            elif deed == "fail" or (deed == "fail once" and ctx.attempt == 1):
                raise NodeFailed("no_luck")
            return NODES[n + 1] if n + 1 < len(state.deeds) else END

    for n in range(len(NODES)):
        made(n)
    return agent


def expected(deeds: list[str]) -> list[str]:
    """The log of a run of that script, by the contract."""
    log = ["RunStarted"]
    for n, deed in enumerate(deeds):
        name = NODES[n]
        error, fn = f"error:no_luck:{name.lower()}", name.lower()
        log.append(f"NodeStarted {name}")
        if deed in {"fail", "fail once"}:
            log += [error, f"retry:2:{fn}"]
        if deed == "fail":
            return [*log, error, "RunFinished"]
        log += ["a.b"] * (deed == "trace") + [f"NodeFinished {name}"]
        if deed == "cancel":
            if n + 1 < len(deeds):  # found with the commit that starts the next node, which never runs
                return [*log, f"NodeStarted {NODES[n + 1]}", "cancelRequested", "RunFinished"]
            return [*log, "RunFinished"]  # it had ended by then
    return [*log, "RunFinished"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(st.sampled_from(DEEDS), min_size=1, max_size=len(NODES)))
async def test_the_log_of_a_run_is_what_its_nodes_did(database: str, deeds: list[str]) -> None:
    here: list[Stages] = []
    async with stages(database, scripted(here)) as s:
        here.append(s)
        request = StartRequest(agent="scripted", input={"deeds": deeds})
        run_id = (await s.control.start(request)).run_id
        worker = s.worker()
        assert await worker.claim() == 1
        await eventually(lambda: worker.active == 0)
        rows = await s.database.fetch(
            "SELECT type::text AS type, coalesce(name, fn) AS label, xmin::text AS tx FROM run_events "
            "WHERE run_id = $1 ORDER BY seq",
            run_id,
        )
        log = [row["label"] if row["type"] == "DebugTrace" else " ".join(filter(None, row[:2])) for row in rows]
        assert log == expected(deeds)
        assert len({row["tx"] for row in rows if row["type"].startswith("Node")}) == 1 + log_steps(log)
        state = await s.control.state(run_id)
        if finished := [seq for seq, row in enumerate(rows, 1) if row["type"] == "NodeFinished"]:
            assert state.seq == finished[-1]


def log_steps(log: list[str]) -> int:
    """How many ends of nodes there are: each is a commit, which holds the next start, too."""
    return sum(line.startswith("NodeFinished") for line in log)

"""The database refuses every transition that is not legal."""

from __future__ import annotations

import asyncpg

from pipeline import raw, stages
from runwire.model.run import TERMINAL, RunState

LEGAL = {
    RunState.PENDING: {RunState.STARTED},
    RunState.STARTED: {*TERMINAL, RunState.WAITING},
    RunState.WAITING: {RunState.STARTED},
}

# All that goes with a state, so that nothing but the transition itself can be refused.
ENTER = (
    "UPDATE runs SET state = $1::text::run_state, last_seq = $2, started_at = $3, finished_at = $4, waiting_for = $5"
)


async def enter(connection: asyncpg.Connection[asyncpg.Record], state: RunState) -> None:
    now = await connection.fetchval("SELECT now()")
    pending, over = state is RunState.PENDING, state in TERMINAL
    waiting_for = "x" if state is RunState.WAITING else None
    await connection.execute(
        ENTER, state.value, 0 if pending else 1, None if pending else now, now if over else None, waiting_for
    )


async def refusal_of(connection: asyncpg.Connection[asyncpg.Record], state: RunState) -> str | None:
    """The constraint that forbids entering the state from where the run is; the run stays where it is."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await enter(connection, state)
    except asyncpg.CheckViolationError as refused:
        return refused.constraint_name
    else:
        return None
    finally:
        await attempt.rollback()


async def test_every_transition_is_refused_but_the_legal_ones(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
    connection = await raw(database)
    for before in RunState:
        await connection.execute("ALTER TABLE runs DISABLE TRIGGER runs_transition")
        await enter(connection, before)
        await connection.execute("ALTER TABLE runs ENABLE TRIGGER runs_transition")
        for after in set(RunState) - {before}:
            legal = after in LEGAL.get(before, set())
            assert await refusal_of(connection, after) == (None if legal else "runs_transition"), (before, after)
    await connection.close()

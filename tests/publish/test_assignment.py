"""Which publisher publishes which runs: everything has one, parts are even, and nothing moves that need not."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline import raw
from runwire.publish.assignment import SHARDS, next_change, shard_of

NAMES = st.sampled_from([f"p{n}" for n in range(12)])
OWNERS = st.lists(st.none() | NAMES, min_size=SHARDS, max_size=SHARDS)
ALIVE = st.sets(NAMES, min_size=1, max_size=12)


def stepped(me: str, alive: set[str], owners: list[str | None]) -> bool:
    """Steps as the database lets it, and says whether anything moved."""
    step = next_change(me, alive=alive, owners=owners)
    for shard in step.take:
        assert owners[shard] not in alive, "nobody takes from the living"
        owners[shard] = me
    for shard in step.release:
        assert owners[shard] == me
        owners[shard] = None
    return bool(step.take or step.release)


@given(ALIVE, OWNERS, st.randoms(use_true_random=False))
def test_in_any_order_of_steps_each_shard_gets_one_owner_and_parts_are_even(
    alive: set[str], owners: list[str | None], rng: object
) -> None:
    order = sorted(alive)
    for _ in range(3):
        rng.shuffle(order)  # type: ignore[attr-defined]
        for me in order:
            stepped(me, alive, owners)
    parts = Counter(owners)
    assert set(parts) == alive
    assert max(parts.values()) - min(parts.values()) <= 1
    assert not any(stepped(me, alive, owners) for me in order), "and there it stays"


@given(ALIVE, OWNERS)
def test_whoever_is_alone_takes_everything_in_one_step(alive: set[str], owners: list[str | None]) -> None:
    me = min(alive)
    stepped(me, {me}, owners)
    assert owners == [me] * SHARDS


@given(st.sets(NAMES, min_size=2, max_size=12))
def test_a_death_moves_only_what_the_dead_had(alive: set[str]) -> None:
    owners: list[str | None] = [None] * SHARDS
    for me in (*sorted(alive), *sorted(alive)):
        stepped(me, alive, owners)
    before = list(owners)
    dead = max(alive)
    left = alive - {dead}
    for _ in range(3):
        for me in sorted(left):
            stepped(me, left, owners)
    moved = [shard for shard in range(SHARDS) if owners[shard] != before[shard]]
    # Beyond what the dead had, one shard at most for each of the living: the remainder falls elsewhere.
    assert len(moved) <= before.count(dead) + len(left)
    assert all(owners[shard] in left for shard in moved)


async def test_the_database_and_the_code_count_shards_alike(database: str) -> None:
    connection = await raw(database)
    try:
        run_ids = [f"run.{n}:x-{n * n}_A" for n in range(500)]
        await connection.execute(
            "INSERT INTO runs (run_id, agent, request_hash, input) SELECT r, 'x', '', '' FROM unnest($1::text[]) AS r",
            run_ids,
        )
        await connection.execute("INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM runs")
        rows = await connection.fetch("SELECT run_id, shard FROM run_outbox")
    finally:
        await connection.close()
    assert {row["run_id"]: row["shard"] for row in rows} == {run_id: shard_of(run_id) for run_id in run_ids}
    assert len({row["shard"] for row in rows}) > SHARDS * 0.9, "spread over all of them"

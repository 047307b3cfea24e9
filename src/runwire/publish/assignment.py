"""Assigns shards of runs to publishers: a pure function of the live publishers and their shards."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

SHARDS: Final = 128


def shard_of(run_id: str) -> int:
    """The shard of a run, as run_outbox.shard counts it: 0 to 127."""
    return hashlib.sha256(run_id.encode()).digest()[0] % SHARDS


@dataclass(frozen=True, slots=True)
class ShardChange:
    """The next change of one publisher: it takes shards of no live publisher and releases those beyond its share."""

    part: int
    take: tuple[int, ...]
    release: tuple[int, ...]


def next_change(me: str, *, alive: Collection[str], owners: Sequence[str | None]) -> ShardChange:
    """The step of `me`, who is alive in any case; `owners` has one entry per shard.

    Shares differ by at most one shard. A publisher never takes a shard of a live one, so a shard is released before it
    changes hands. It releases only shards beyond its share, so no more shards move than must. After enough steps of
    each publisher, in any order, each shard has one owner.
    """
    members = sorted({*alive, me})
    place = members.index(me)
    part = len(owners) // len(members) + (place < len(owners) % len(members))
    mine = [shard for shard, owner in enumerate(owners) if owner == me]
    free = [shard for shard, owner in enumerate(owners) if owner not in members]
    # Each looks at another place first, so that those who step at once seldom reach for the same.
    first = place * len(free) // len(members)
    wanted = max(part - len(mine), 0)
    return ShardChange(part, take=tuple((free[first:] + free[:first])[:wanted]), release=tuple(mine[part:]))

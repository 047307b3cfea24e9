"""Thousands of watches that open at once ask PostgreSQL in a few statements, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from pipeline import stages
from runwire.db import Database
from runwire.errors import DatabaseUnavailable, RunNotFound
from runwire.stream import LogReader
from runwire.stream.log import Position


class Counting(LogReader):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.statements = 0

    async def positions(self, run_ids: Sequence[str]) -> Mapping[str, Position]:
        self.statements += 1
        return await super().positions(run_ids)


async def test_positions_asked_for_at_once_are_read_together(database: str) -> None:
    async with stages(database) as s:
        for n in range(20):
            await s.started_run(f"r{n}")
        reader = Counting(s.database)
        found = await asyncio.gather(*(reader.position(f"r{n % 20}") for n in range(1000)))
        assert [position.run_id for position in found] == [f"r{n % 20}" for n in range(1000)]
        assert reader.statements == 1


async def test_who_asks_while_a_statement_is_under_way_gets_what_is_true_afterwards(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        reader = Counting(s.database)
        first = asyncio.ensure_future(reader.position("r"))
        while reader.statements == 0:  # noqa: ASYNC110  # one tick at a time, as it happens
            await asyncio.sleep(0)
        second = asyncio.ensure_future(reader.position("r"))
        assert (await first).last_seq == (await second).last_seq == 1
        assert reader.statements == 2
        assert fence == 1


async def test_one_that_does_not_exist_and_one_that_left_spoil_nothing(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        reader = Counting(s.database)
        asked = [asyncio.ensure_future(reader.position(run_id)) for run_id in ("r", "unknown", "r")]
        await asyncio.sleep(0)
        asked[0].cancel()
        with pytest.raises(RunNotFound):
            await asked[1]
        assert (await asked[2]).run_id == "r"
        await asyncio.gather(*asked, return_exceptions=True)


async def test_everybody_hears_that_the_database_is_away(database: str) -> None:
    async with Database(database) as closed:
        reader = LogReader(closed)
    found = await asyncio.gather(*(reader.position(f"r{n}") for n in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [DatabaseUnavailable] * 3

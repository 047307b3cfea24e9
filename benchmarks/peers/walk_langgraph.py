"""A program of LangGraph that walks five nodes, in the peers' own environment.

python -m benchmarks.peers.walk_langgraph DSN
"""

from __future__ import annotations

import sys
from typing import Any, TypedDict

import uvloop
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers.walk_loop import serve

NODES = ("EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown")


class State(TypedDict):
    n: int


async def step(state: State) -> dict[str, int]:
    return {"n": state["n"] + 1}


async def main(dsn: str) -> None:
    graph: Any = StateGraph(State)
    for name in NODES:
        graph.add_node(name, step)
    for before, after in zip((START, *NODES), (*NODES, END), strict=True):
        graph.add_edge(before, after)
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(dsn, min_size=32, max_size=32, kwargs=settings) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        agent = graph.compile(checkpointer=saver)

        async def call(name: str) -> None:
            config = {"configurable": {"thread_id": name}}
            found = await agent.ainvoke({"n": 0}, config=config, durability="sync")
            assert found["n"] == len(NODES), found

        await serve(call)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))

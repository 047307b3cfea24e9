"""Actors that take turns: one statement, transaction or operation of the store at a time, in the order of a seed.

No actor waits while it holds a lock of the database, so every drawn order comes to its end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from runwire.content import ContentStore
from runwire.db import Database
from waiting import eventually

_DATABASE = frozenset({"fetch", "fetchrow", "fetchval", "execute", "in_transaction"})
_STORE = frozenset({"put", "delete"})


class Turns:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        self._actors: set[asyncio.Task[Any]] = set()

    async def run(self, *actors: Coroutine[Any, Any, Any]) -> list[Any]:
        """The results of the actors in their order, errors among them."""
        tasks = [asyncio.create_task(actor) for actor in actors]
        self._actors = set(tasks)
        while True:
            await eventually(lambda: all(task.done() or task in self._waiting for task in tasks), within_s=20)
            if not self._waiting:
                return await asyncio.gather(*tasks, return_exceptions=True)
            actor = self._random.choice([task for task in tasks if task in self._waiting])
            self._waiting.pop(actor).set_result(None)

    async def turn(self) -> None:
        """Waits for the next turn of the actor that calls it; others go on."""
        actor = asyncio.current_task()
        if actor in self._actors:
            assert actor is not None
            self._waiting[actor] = asyncio.get_running_loop().create_future()
            await self._waiting[actor]


class Stepped:
    """A database or a store, each of whose operations takes a turn."""

    def __init__(self, target: Database | ContentStore, turns: Turns) -> None:
        self._target = target
        self._turns = turns
        self._names = _STORE if isinstance(target, ContentStore) else _DATABASE

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        return self._in_turn(attribute) if name in self._names else attribute

    def _in_turn(self, operation: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def taken(*args: Any, **how: Any) -> Any:
            await self._turns.turn()
            return await operation(*args, **how)

        return taken

"""The bus between processes of one database: NOTIFY with run id and seqs; subscribers read the events themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runwire.bus import Bus, Deliver, Published
from runwire.bus.subscribers import Subscribers, Subscription, tell
from runwire.db import Database, Listener, Session
from runwire.db.notify import EVENTS_PUBLISHED, packed
from runwire.duties import Duty, Role
from runwire.errors import BusUnavailable, DatabaseFailed
from runwire.process import Context


class PostgresBusWriter:
    """Sends one NOTIFY for as many messages as fit a payload, in a statement of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def publish(self, messages: Sequence[Published]) -> None:
        words = [f"{message.run_id},{message.first_seq},{message.last_seq}" for message in messages]
        try:
            await self._session.fetch(
                "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p", EVENTS_PUBLISHED, packed(words)
            )
        except DatabaseFailed as error:
            raise BusUnavailable("the NOTIFY did not go out") from error


class PostgresBusReader:
    """Routes notifications to subscribers. Run its `listener`; messages may be lost while it reconnects."""

    def __init__(self, database: Database, *, on_connected: Callable[[], None] = lambda: None, **how: Any) -> None:
        """`on_connected`: after every (re)connect, when messages may have been lost. `how`: as for Listener."""
        self._subscribers = Subscribers()
        self.listener = Listener(
            database, {EVENTS_PUBLISHED: self._route}, name="bus listener", on_connected=on_connected, **how
        )

    def subscribe(self, run_id: str, deliver: Deliver) -> Subscription:
        return self._subscribers.subscribed(run_id, deliver)

    def _route(self, payload: str) -> None:
        for word in payload.split(" "):
            run_id, first_seq, last_seq = word.rsplit(",", 2)
            for deliver in self._subscribers.of(run_id):
                tell(deliver, Published(run_id, int(first_seq), int(last_seq), None))


async def open_bus(context: Context) -> Bus:
    """The bus of a process; its listener runs where streams need it."""
    session = context.database.session("bus")
    context.phases.ground.push_async_callback(session.aclose)
    reader = PostgresBusReader(
        context.database, on_connected=context.bus_missed, place=context.place, on_deaf=context.note_deaf
    )
    if Role.API in context.roles:
        context.keep(context.phases.ground, Duty.LISTEN, "bus listener", reader.listener.run)
    return Bus(PostgresBusWriter(session), reader)

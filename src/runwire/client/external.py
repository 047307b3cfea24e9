"""Calls of external orchestrators, which append the events of their runs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runwire.client.calls import Call
from runwire.client.connection import ClientConnection, Run, fence_of, id_of, path_of
from runwire.client.results import Appended
from runwire.errors import RunClosed, RunwireError, SeqConflict
from runwire.model.event import NewEvent
from runwire.model.run import RunState


class ExternalCalls(ClientConnection):
    """The part of a client that appends to external runs."""

    async def append(
        self,
        run: Run,
        events: Sequence[NewEvent],
        *,
        fence: int | None = None,
        if_seq: int | None = None,
        outcome: RunState | None = None,
        signals_taken: int = 0,
    ) -> Appended:
        """Stores a batch of an external run, all or nothing, and renews its lease; an empty batch only does that.

        `fence` may be left out when `run` is what `start` returned. With `if_seq`, the seq the log is at, a batch is
        stored once even when an answer is lost, and is tried again until it is known to be; without, a lost answer is
        ServerUnreachable. `outcome` goes with RunFinished. The result's `signals` come with every append until one has
        acknowledged them with `signals_taken`, the `n` of the last one that was taken.
        Raises SeqConflict, FenceStale, RunClosed, IllegalAppend.
        (After such a lost answer `cancel_requested` is False and there are no signals; the next append tells again.)
        """
        run_id = id_of(run)
        held = fence_of(run, fence)
        body: dict[str, Any] = {"events": events}
        if if_seq is not None:
            body["ifSeq"] = if_seq
        if outcome is not None:
            body["outcome"] = outcome
        if signals_taken:
            body["signalsTaken"] = signals_taken
        call = Call(
            "POST",
            f"{path_of(run_id)}/events",
            body=body,
            headers={"Runwire-Fence": str(held)},
            repeatable=if_seq is not None or not events,
            run_id=run_id,
            fence=held,
        )

        def settle(error: RunwireError) -> Appended | None:
            # While the fence holds nobody else appends: a log that is ahead by this batch is ahead by this very one.
            match error:
                case SeqConflict(actual=at) if outcome is None:
                    pass
                case RunClosed(state=state, last_seq=at) if state == outcome:
                    pass
                case _:
                    return None
            first = (if_seq or 0) + 1
            return Appended(tuple(range(first, at + 1)), at) if at == first + len(events) - 1 else None

        return await self._caller.call(call, Appended, settle=settle)

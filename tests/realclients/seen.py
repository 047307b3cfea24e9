"""Compares the events that a client saw with those it should have seen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

GOLDEN_EVENTS = 13


@dataclass(slots=True)
class Seen:
    """Events with the id the client had for each; `end` is the data of the `end` frame.

    `opened` counts connections; `closed` says that the client will not come back by itself.
    """

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    opened: int = 0
    closed: bool = False

    @classmethod
    def of(cls, lines: list[dict[str, Any]]) -> Seen:
        """From the lines a JavaScript client noted down; see follow.mjs."""
        seen = cls()
        for line in lines:
            assert not seen.closed, f"{line} after it was closed"
            match line["what"]:
                case "open":
                    seen.opened += 1
                case "event":
                    seen.events.append((line["id"], json.loads(line["data"])))
                case "end":
                    assert seen.end is None, "ended twice"
                    seen.end = json.loads(line["data"])
                case "error":
                    seen.closed = line["closed"]
        return seen

    def check_whole(self, run_id: str, *, after: int = 0) -> None:
        """Every event after `after` once and in order, the terminal one last, then the end."""
        ids = [int(id_) for id_, _ in self.events]
        assert ids == list(range(after + 1, after + len(ids) + 1))
        assert ids == [event["seq"] for _, event in self.events]
        assert {event["runId"] for _, event in self.events} == {run_id}
        types = [event["type"] for _, event in self.events]
        assert types.index("RunFinished") == len(types) - 1
        assert ids[-1] >= GOLDEN_EVENTS
        assert self.end == {"runId": run_id, "state": "finished", "lastSeq": ids[-1]}

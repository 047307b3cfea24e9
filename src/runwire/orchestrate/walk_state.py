"""The state of a run between the nodes of a walk: as its last checkpoint has it."""

from __future__ import annotations

from typing import Any

from runwire.append import Checkpoint
from runwire.model.graph import Agent
from runwire.orchestrate.claim import Claim


class WalkState:
    """Makes checkpoints, which repeat no state that did not change, and restores what they hold."""

    def __init__(self, claim: Claim, agent: Agent[Any]) -> None:
        self._claim = claim
        self._state_type = agent.state_type
        self._saved: bytes | None = claim.state

    @property
    def kept(self) -> bytes:
        """The state as of the last checkpoint; before the first, the one that the run began with."""
        return self._saved or self._claim.input

    def checkpoint(self, node: str | None, next_node: str, encoded: bytes) -> Checkpoint:
        unchanged = encoded == self._saved
        self._saved = encoded
        return Checkpoint(node, next_node, None if unchanged else encoded)

    def restored(self) -> Any:
        """The decoded state; None when it no longer fits its class."""
        return self._state_type.restore(self.kept)

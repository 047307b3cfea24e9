"""The runs that a stream of many runs is about. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from runwire.errors import InvalidRequest
from runwire.model.labels import checked_session, parsed_labels
from runwire.model.run import checked_run_id
from runwire.stream.many.positions import RUNS_MAX
from runwire.telemetry.metrics import StreamKind

DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Selector:
    """A list of runs, or the runs of a session, or those with all of some labels."""

    runs: tuple[str, ...] = ()
    session: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, *, runs: Sequence[str], sessions: Sequence[str], labels: Sequence[str], runs_max: int = RUNS_MAX
    ) -> Selector:
        """The selector of a request's parameters; labels are `key:value`. Raises InvalidRequest."""
        if bool(runs) + bool(sessions) + bool(labels) != 1 or len(sessions) > 1:
            raise InvalidRequest("name runs, or one session, or labels", code="invalid_selector")
        if runs:
            chosen = tuple(dict.fromkeys(map(checked_run_id, runs)))
            if len(chosen) > runs_max:
                raise InvalidRequest(f"a stream has at most {runs_max} runs", code="invalid_selector")
            return cls(runs=chosen)
        if sessions:
            return cls(session=checked_session(sessions[0]))
        return cls(labels=parsed_labels(labels))

    @property
    def kind(self) -> StreamKind:
        if self.runs:
            return StreamKind.RUNS
        return StreamKind.LABEL if self.session is None else StreamKind.SESSION

    @property
    def open_ended(self) -> bool:
        """Runs may join: the stream does not end by itself."""
        return not self.runs

    @property
    def subject(self) -> str:
        """The same text for the same selector, and no run's id."""
        return "?" + msgspec.json.encode((self.runs, self.session, self.labels), order="sorted").decode()

    @property
    def digest(self) -> bytes:
        """Tells selectors apart."""
        return hashlib.sha256(self.subject.encode()).digest()[:DIGEST_BYTES]

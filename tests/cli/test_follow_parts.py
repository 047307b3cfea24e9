"""`runwire run tail --parts` shows content, and lets none of it command the terminal."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rich.console import Console

from runwire.cli import follow
from runwire.client import PartPiece
from runwire.client.results import StreamEnd
from runwire.model.run import RunState

HOSTILE = "Grüße\x1b]52;c;aGk=\x07\n\tand\x9b2J \x1b[31mred\r."


class Pieces:
    """A stream with one piece of content."""

    end = StreamEnd("r", RunState.FINISHED, 1)

    async def __aiter__(self) -> AsyncIterator[PartPiece]:
        yield PartPiece(1, 1, 0, HOSTILE.encode())


@pytest.mark.parametrize("terminal", [True, False])
async def test_controls_in_content_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    out = io.StringIO()
    shown = Console(file=out, force_terminal=terminal, no_color=True, width=160, emoji=False)
    monkeypatch.setattr(follow, "console", lambda: shown)
    stream: Any = Pieces()
    await follow.follow_parts(stream, as_json=False)
    first = out.getvalue().partition("finished")[0]
    assert first.startswith("Grüße")
    assert ("\x1b]52" in first) is not terminal
    assert ("\x9b" in first) is not terminal

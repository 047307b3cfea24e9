"""Messages and calls of tools, as a model reads and writes them. They are parts of a run's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from msgspec import Meta

MESSAGE_CHARS: Final = 20_000
HISTORY: Final = 40
"""Messages of a conversation that a run takes at most."""

Text = Annotated[str, Meta(max_length=MESSAGE_CHARS)]


@dataclass(slots=True)
class Call:
    """A tool that the model asks for. `arguments` is JSON, as the model wrote it."""

    tool: Annotated[str, Meta(max_length=64)]
    arguments: Text = "{}"


@dataclass(slots=True)
class Message:
    """`call` goes with the words of an assistant; the text of a tool is its result, as JSON."""

    role: Literal["user", "assistant", "tool"]
    text: Text = ""
    call: Call | None = None


@dataclass(slots=True)
class Turn:
    """A run's input and its state: the conversation so far, whose last message waits for an answer."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=HISTORY)]
    steps: list[Message] = field(default_factory=list)
    """The messages that this run has added."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The data of the signals `approve` and `reject`."""

    comment: Annotated[str, Meta(max_length=2_000)] = ""

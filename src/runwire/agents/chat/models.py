"""The model of this process: a remote one where the settings name it, else the scripted one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol

from runwire.agents.chat.conversation import Call, Message
from runwire.agents.chat.remote_model import RemoteModel
from runwire.agents.chat.scripted_model import ScriptedModel
from runwire.agents.chat.tools import Tool
from runwire.agents.settings import AgentSettings


class Model(Protocol):
    """Answers messages."""

    def reply(self, messages: Sequence[Message], *, tools: Mapping[str, Tool[Any]]) -> AsyncGenerator[str | Call, None]:
        """Words as they come, then perhaps one call of a tool. Raises NodeFailed."""


_model: Final = ContextVar[Model]("runwire_chat_model")


def choose(settings: AgentSettings) -> None:
    """Lets runs of this context, and of tasks made in it from now on, ask the model that the settings name."""
    if settings.demo_model_url is None:
        _model.set(ScriptedModel(pace_s=settings.demo_pace_ms / 1000))
        return
    key = settings.demo_model_key
    _model.set(
        RemoteModel(settings.demo_model_url, settings.demo_model, key=None if key is None else key.get_secret_value())
    )


def model() -> Model:
    """The model that this context has chosen; the scripted one if it has chosen none."""
    return _model.get(ScriptedModel())

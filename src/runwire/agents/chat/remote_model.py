"""A model behind an OpenAI-compatible API: `POST {url}/chat/completions` with `stream`, answered as server-sent events.

The operator chooses the address, so it needs no guard. The key goes to that address only: no redirect is followed, and
neither the key nor any content is in an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp.http_exceptions import LineTooLong

from runwire.agents.chat.conversation import MESSAGE_CHARS, Call, Message
from runwire.agents.chat.tools import Tool
from runwire.errors import NodeFailed

SILENCE_S: Final = 60.0
"""Seconds without a byte after which the model counts as gone."""
LINE_BYTES: Final = 1 << 18
INSTRUCTIONS: Final = (
    "You are the friendly assistant of a demo. Answer in short Markdown: paragraphs, lists, bold, code. "
    "Use the tool distance for distances. Offer to save a plan with save_note; a person approves it first."
)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_CHUNK: Final = msgspec.json.Decoder(_Chunk)


class RemoteModel:
    """Asks the model `name` at `url`, which ends with the version, as in `https://api.openai.com/v1`."""

    def __init__(self, url: str, name: str, *, key: str | None = None) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._name = name
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def reply(
        self, messages: Sequence[Message], *, tools: Mapping[str, Tool[Any]]
    ) -> AsyncGenerator[str | Call, None]:
        """Words as they come, then the first tool that the model called.

        Raises NodeFailed: `model_unavailable`, `model_refused` (a status but 200), `model_answer_broken`,
        `model_answer_too_long`.
        """
        body = {"model": self._name, "stream": True, "messages": _as_messages(messages)}
        if tools:
            body["tools"] = [_as_function(tool) for tool in tools.values()]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_S)
        tool, arguments, size = "", "", 0
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_BYTES) as session,
                session.post(self._url, json=body, headers=self._headers, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise NodeFailed("model_refused", f"status {response.status}", retry=response.status >= 500)
                async for delta in _deltas(response.content):
                    if delta.content:
                        yield delta.content
                    for part in delta.tool_calls or ():
                        if part.index == 0:
                            tool += part.function.name or ""
                            arguments += part.function.arguments or ""
                    size += len(delta.content or "")
                    if size > MESSAGE_CHARS or len(arguments) > MESSAGE_CHARS:
                        raise NodeFailed("model_answer_too_long", retry=False)
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise NodeFailed("model_unavailable") from None  # its text may have the address, with its query
        if tool:
            yield Call(tool, arguments or "{}")


async def _deltas(lines: aiohttp.StreamReader) -> AsyncIterator[_Delta]:
    """The delta of each event, until `data: [DONE]`. An answer that ends without it is cut off."""
    try:
        async for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == line.strip():  # a comment, another field, or a blank line
                continue
            if data == b"[DONE]":
                return
            for choice in _CHUNK.decode(data).choices[:1]:
                yield choice.delta
    except (msgspec.MsgspecError, UnicodeDecodeError, LineTooLong):
        raise NodeFailed("model_answer_broken") from None
    raise NodeFailed("model_unavailable")


def _as_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As the API has them. The id of a call is its place: the result follows its call."""
    told: list[dict[str, Any]] = [{"role": "system", "content": INSTRUCTIONS}]
    for message in messages:
        if message.role == "tool":
            told.append({"role": "tool", "tool_call_id": f"call_{len(told) - 1}", "content": message.text})
            continue
        said: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.call is not None:
            function = {"name": message.call.tool, "arguments": message.call.arguments}
            said["tool_calls"] = [{"id": f"call_{len(told)}", "type": "function", "function": function}]
        told.append(said)
    return told


def _as_function(tool: Tool[Any]) -> dict[str, Any]:
    (_, components) = msgspec.json.schema_components([tool.arguments])
    parameters = components[tool.arguments.__name__]
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}

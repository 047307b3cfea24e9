"""The agent chat, as a worker walks it: words, tools, approvals, and models that misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.model_api import Asks, ModelApi, model_api
from runwire.agents.chat import chat
from runwire.agents.chat.conversation import Message
from runwire.agents.chat.scripted_model import ScriptedModel
from runwire.agents.chat.tools import TOOLS
from runwire.assembly import Assembly
from runwire.client import Client, PartPiece
from runwire.errors import ConfigurationError, InvalidRequest
from runwire.model.event import Event
from runwire.settings import Settings, load_settings

AGENT = "runwire.agents.chat:chat"
TRIP = "Plan a weekend in Lisbon"

Serving = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def serving(database: str, tmp_path: Path) -> Serving:
    @asynccontextmanager
    async def served(**chosen: Any) -> AsyncIterator[Client]:
        settings = Settings(
            database_url=database, data_dir=tmp_path, bus="memory", port=0, admin_port=0, agents=(AGENT,),
            demo_pace_ms=0, **chosen,
        )  # fmt: skip
        async with Assembly(settings) as service, Client(service.url) as client:
            yield client

    return served


@pytest.fixture
async def api() -> AsyncIterator[ModelApi]:
    async with model_api() as api:
        yield api


def asked(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "text": text}]}


class Seen:
    """A run as its stream tells of it."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, str]] = []
        """Names and texts, in the order of their numbers."""
        self.traces: list[str] = []

    def lines(self, name: str) -> list[Any]:
        return [msgspec.json.decode(line) for told, text in self.parts if told == name for line in text.splitlines()]


async def followed(client: Client, run: Any, *, decide: Mapping[str, str] | None = None) -> Seen:
    """The whole run. `decide` answers its proposal: the name of a signal, and a comment."""
    seen = Seen()
    async with client.stream_with_parts(run) as stream:
        async for item in stream:
            if isinstance(item, PartPiece):
                name, text = seen.parts[item.part - 1]
                seen.parts[item.part - 1] = (name, ("" if item.reset else text) + item.data.decode())
                continue
            assert isinstance(item, Event)
            about, *facts = (item.fn or "").split(":")
            if about == "part" and facts[-1] == "opened" and int(facts[1]) > len(seen.parts):
                seen.parts.append((facts[0], ""))
            elif item.fn is not None and about != "part":
                seen.traces.append(item.fn)
            if item.type == "NodeFinished" and item.name == "Propose" and decide is not None:
                await client.signal(run, decide["name"], data={"comment": decide["comment"]})
    return seen


def test_it_is_a_graph_that_can_run() -> None:
    chat.check()


async def test_an_approval_with_a_comment_saves_the_plan_as_an_artifact(serving: Serving) -> None:
    async with serving() as client:
        run = await client.start("chat", input=asked(TRIP), session="trip")
        seen = await followed(client, run, decide={"name": "approve", "comment": "With more soup."})
        (stored,) = [artifact for artifact in await client.artifacts(run) if artifact.name == "note.md"]
        note = await client.artifact(run, stored.n)

    assert [name for name, _ in seen.parts] == [
        "question",
        "answer",
        "tool",
        "answer",
        "proposal",
        "decision",
        "answer",
    ]
    assert seen.parts[0][1] == TRIP
    called, result = seen.lines("tool")
    assert called == {"tool": "distance", "arguments": '{"origin":"Berlin","destination":"Lisbon"}'}
    assert result["km"] == pytest.approx(2315, abs=10)
    decision, saved = seen.lines("decision")
    assert decision == {"decision": "approve", "comment": "With more soup."}
    assert saved["file"] == {"n": stored.n, "name": "note.md", "size": len(note)}
    assert note.startswith(b"# A weekend in Lisbon\n")
    assert "With more soup." in seen.parts[-1][1]


async def test_what_is_rejected_is_not_done(serving: Serving) -> None:
    async with serving() as client:
        run = await client.start("chat", input=asked(TRIP))
        seen = await followed(client, run, decide={"name": "reject", "comment": ""})
        assert [artifact.name for artifact in await client.artifacts(run) if artifact.name == "note.md"] == []
    assert seen.lines("decision") == [{"decision": "reject", "comment": ""}]
    assert "nothing was saved" in seen.parts[-1][1]


async def test_a_comment_that_is_too_long_is_refused_when_it_is_sent(serving: Serving) -> None:
    async with serving() as client:
        run = await client.start("chat", input=asked(TRIP))
        with pytest.raises(InvalidRequest):
            await client.signal(run, "approve", data={"comment": "x" * 2001})
        await client.cancel(run)


async def test_a_remote_model_is_asked_with_all_that_was_said_and_its_words_arrive(
    serving: Serving, api: ModelApi
) -> None:
    api.answers = [
        ["Let me ", "see.", Asks("distance", '{"origin": "Rome", '), Asks(arguments='"destination": "Oslo"}')],
        ["It is ", "far."],
    ]
    chosen = {"demo_model_url": api.url, "demo_model": "small", "demo_model_key": "sk-canary"}
    async with serving(**chosen) as client:
        earlier = [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Hello."}]
        run = await client.start("chat", input={"messages": [*earlier, {"role": "user", "text": "Rome to Oslo?"}]})
        seen = await followed(client, run)

    assert [text for name, text in seen.parts if name == "answer"] == ["Let me see.", "It is far."]
    assert api.keys == ["Bearer sk-canary"] * 2
    first, second = api.asked
    assert (first["model"], first["stream"]) == ("small", True)
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant", "user"]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["distance", "save_note"]
    assert set(first["tools"][0]["function"]["parameters"]["properties"]) == {"origin", "destination"}
    call, result = second["messages"][-2:]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    assert "km" in msgspec.json.decode(result["content"])


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ([b"data: {\n\n"], "model_answer_broken"),
        ([b"data: " + b"x" * 600_000 + b"\n\n"], "model_answer_broken"),
        (["half", b": and then the connection ends\n\n"], "model_unavailable"),
        (["long " * 5_000], "model_answer_too_long"),
        ([Asks("launch_rocket", "{}")], "unknown_tool"),
    ],
    ids=["no JSON", "an endless line", "half an answer", "too many words", "a tool that is not there"],
)
async def test_a_model_that_misbehaves_fails_the_run_with_a_code(
    serving: Serving, api: ModelApi, answer: Any, code: str
) -> None:
    api.answers = [answer]
    async with serving(demo_model_url=api.url, demo_model="small") as client:
        run = await client.start("chat", input=asked("Hi"))
        seen = await followed(client, run)
    assert f"error:{code}:answer" in seen.traces


async def test_a_refusal_is_not_followed_elsewhere_and_nothing_of_it_is_told(
    serving: Serving, api: ModelApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.status = 307
    async with serving(demo_model_url=api.url, demo_model="small", demo_model_key="sk-hidden") as client:
        run = await client.start("chat", input=asked("Hi"))
        seen = await followed(client, run)
    assert [trace for trace in seen.traces if "error" in trace] == ["error:model_refused:answer"]
    assert len(api.asked) == 1
    printed = capsys.readouterr()
    assert "hidden" not in printed.out + printed.err


async def test_a_model_that_never_stops_asking_for_tools_gets_none_in_the_end(serving: Serving, api: ModelApi) -> None:
    ask = [Asks("distance", '{"origin": "Nowhere", "destination": "Oslo"}')]
    api.answers = [ask, ask, ask, ask, ["I give up."]]
    async with serving(demo_model_url=api.url, demo_model="small") as client:
        seen = await followed(client, await client.start("chat", input=asked("Hi")))
    assert ["tools" in request for request in api.asked] == [True] * 4 + [False]
    assert seen.parts[-1] == ("answer", "I give up.")
    assert {"error": "One of the cities is not on the map."} in seen.lines("tool")


@pytest.mark.parametrize("text", ["hello", "How do you survive a crash?", "Tell me a story", "Rome and Oslo", TRIP])
async def test_the_scripted_model_says_the_same_each_time(text: str) -> None:
    first, second = [
        [piece async for piece in ScriptedModel().reply([Message("user", text)], tools=TOOLS)] for _ in range(2)
    ]
    assert first == second
    assert len(first) > 5


async def test_arguments_that_do_not_fit_are_a_result_that_the_model_reads(serving: Serving, api: ModelApi) -> None:
    api.answers = [[Asks("distance", '{"origin": 7}')], ["Sorry."]]
    async with serving(demo_model_url=api.url, demo_model="small") as client:
        seen = await followed(client, await client.start("chat", input=asked("Hi")))
    assert seen.lines("tool")[-1] == {"error": "The arguments of distance do not fit."}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"demo_model_url": "http://model.example/v1", "demo_model": "m", "demo_model_key": "k-canary"}, "https"),
        ({"demo_model_url": "https://model.example/v1"}, "demo_model"),
        ({"demo_model_url": "https://me:canary@model.example/v1", "demo_model": "m"}, "credentials"),
        ({"demo_model_url": "file:///etc/passwd", "demo_model": "m"}, "URL"),
        ({"demo_model_key": "canary\r\nHost: x"}, "ASCII"),
    ],
)
def test_settings_that_would_leak_the_key_are_refused_and_not_quoted(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**settings)
    assert said in str(refused.value)
    assert "canary" not in str(refused.value)


def test_the_key_is_in_no_repr() -> None:
    settings = load_settings(
        demo_model_url="https://model.example/v1", demo_model="m", demo_model_key="k-canary"
    )  # fmt: skip
    assert "canary" not in repr(settings) + str(settings.model_dump())

"""Agents are found by entry point and by reference; what cannot be loaded is named, all of it at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from runwire.agents import discovery
from runwire.agents.discovery import find_agents
from runwire.errors import ConfigurationError

Write = Callable[[str, str], None]

AGENT = """
from dataclasses import dataclass
from runwire import Agent

@dataclass
class Nothing:
    pass

def made(name, to="END"):
    agent = Agent(name, start="Work", state=Nothing)

    @agent.node(to=to)
    async def work(_ctx, _state):
        pass

    return agent
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the working directory, which is a fresh one; `made(name, to=)` is there to be used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def module(name: str, body: str) -> None:
        (tmp_path / f"{name}.py").write_text(AGENT + body, encoding="utf-8")

    yield module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def problems(*references: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refused:
        find_agents(references)
    return refused.value.problems


def test_the_built_in_agents_are_found_by_their_entry_points() -> None:
    assert find_agents().names == ("explore", "golden")


def test_an_agent_of_the_working_directory_is_found_by_reference(write: Write) -> None:
    write("shop_a", "triage = made('triage')")
    found = find_agents(["shop_a:triage"])
    assert found.names == ("explore", "golden", "triage")


def test_a_reference_may_lead_through_attributes(write: Write) -> None:
    write("shop_b", "class Team:\n    class Night:\n        triage = made('triage')")
    assert "triage" in find_agents(["shop_b:Team.Night.triage"]).names


def test_the_same_agent_twice_is_one(write: Write) -> None:
    write("shop_c", "triage = made('triage')\nalias = triage")
    assert find_agents(["shop_c:triage", "shop_c:alias", "runwire.agents.golden:golden"]).names == (
        "explore",
        "golden",
        "triage",
    )


def test_everything_that_is_wrong_is_named_at_once(write: Write) -> None:
    write("shop_d", "number = 7\nastray = made('astray', to='Nowhere')\nfine = made('fine')\nspaced = made('a b')")
    wrong = ["no_such_module:x", "shop_d:no_such", "shop_d:number", "shop_d:astray", "shop_d:spaced", "shop_d:fine.x"]
    told = problems("shop_d:fine", *wrong)
    assert len(told) == len(wrong)
    for sentence, facts in zip(
        told,
        [
            ("no_such_module:x", "No module named"),
            ("shop_d:no_such", "no_such"),
            ("shop_d:number", "int", "not a runwire.Agent"),
            ("astray", "Nowhere"),
            ("a b", "name must match"),
            ("shop_d:fine.x", "'x'"),
        ],
        strict=True,
    ):
        for fact in facts:
            assert fact in sentence


@pytest.mark.parametrize(
    "body",
    ["this is no python", "raise ValueError('at import')", "import no_such_dependency", "1 / 0"],
)
def test_a_module_that_fails_while_it_is_imported_is_a_problem_like_any_other(write: Write, body: str) -> None:
    write("shop_e", body)
    told = problems("shop_e:x", "no_such_module:y")
    assert len(told) == 2
    assert "shop_e:x" in told[0]


def test_two_agents_of_one_name_are_refused(write: Write) -> None:
    write("shop_f", "one = made('triage')\ntwo = made('triage')\ngold = made('golden')")
    told = problems("shop_f:one", "shop_f:two", "shop_f:gold")
    assert len(told) == 2
    assert "'triage'" in told[0]
    assert "taken" in told[0]
    assert "'golden'" in told[1]


def test_a_broken_entry_point_is_named_as_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("theirs", "no_such_package.agents:theirs", discovery.ENTRY_POINT_GROUP)
    monkeypatch.setattr(discovery, "entry_points", lambda **_asked: [broken])
    told = problems("no_such_module:x")
    assert len(told) == 2
    assert "no_such_package.agents:theirs" in told[0]
    assert "RUNWIRE_AGENTS" not in told[0]
    assert "RUNWIRE_AGENTS" in told[1]

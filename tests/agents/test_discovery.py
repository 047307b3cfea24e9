"""Agents are found by entry point and by reference; what cannot be loaded is named, all of it at once."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from runwire.agents import discovery
from runwire.agents.discovery import find_agents
from runwire.errors import ConfigurationError
from runwire.telemetry.logs import configure_logging, get_logger

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


def test_the_built_in_agents_are_found() -> None:
    assert find_agents().names == ("canary", "explore", "golden")


def test_an_agent_of_the_working_directory_is_found_by_reference(write: Write) -> None:
    write("shop_a", "triage = made('triage')")
    found = find_agents(["shop_a:triage"])
    assert found.names == ("canary", "explore", "golden", "triage")


def test_a_reference_may_lead_through_attributes(write: Write) -> None:
    write("shop_b", "class Team:\n    class Night:\n        triage = made('triage')")
    assert "triage" in find_agents(["shop_b:Team.Night.triage"]).names


def test_the_same_agent_twice_is_one(write: Write) -> None:
    write("shop_c", "triage = made('triage')\nalias = triage")
    assert find_agents(["shop_c:triage", "shop_c:alias", "runwire.agents.golden:golden"]).names == (
        "canary",
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


@pytest.mark.parametrize(
    ("body", "said", "line"),
    [
        ("import sys\nsys.exit(1)", "SystemExit: 1", 2),
        ("raise SystemExit", "SystemExit", 1),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", 1),
        ("raise GeneratorExit('over')", "GeneratorExit: over", 1),
        ("raise BaseExceptionGroup('both', [SystemExit(1)])", "BaseExceptionGroup: both", 1),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--what'])", "SystemExit: 2", 2),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError", 2),
        ("raise ValueError('at\\nimport')", "ValueError: at", 1),
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'", 1),
        ("def f(): return f()\nf()", "RecursionError", 1),
        ("this is no python", "SyntaxError", 1),
        ("import os\nos._exit(0)", "SystemExit: os._exit(0)", 2),
        ("from os import _exit\n_exit(3)", "SystemExit: os._exit(3)", 2),
        ("from runwire import Wait\nWait('needs approval', then='X')", "NodeFailed: a Wait has at most 32 signals", 2),
        ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", "E (", 3),
    ],
)
def test_whatever_a_module_raises_is_said_with_its_file_and_line(write: Write, body: str, said: str, line: int) -> None:
    write("shop_g", body)
    (told,) = problems("shop_g:x")
    assert told.startswith(f"RUNWIRE_AGENTS: shop_g:x cannot be loaded: {said}")
    assert told.endswith(f"shop_g.py:{AGENT.count(chr(10)) + line})")
    assert "\n" not in told


def test_an_attribute_may_raise_too(write: Write) -> None:
    write("shop_h", "def __getattr__(name):\n    raise SystemExit(name)\n")
    (told,) = problems("shop_h:triage")
    assert "SystemExit: triage" in told


@pytest.mark.parametrize("reference", ["shop", "./shop.py:a", "shop/agents.py:a", "shop:", ":a", " ", "shop:a b", ""])
def test_a_reference_that_is_none_says_how_one_is_written(reference: str) -> None:
    (told,) = problems(reference)
    assert told == f"RUNWIRE_AGENTS: {reference!r} must be written as module:object, e.g. shop.agents:triage"


def test_what_a_module_prints_and_sets_up_for_its_log_is_not_in_ours(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    write(
        "shop_i",
        "import logging, structlog\nprint('hello')\nlogging.basicConfig(level=logging.DEBUG, force=True)\n"
        "logging.disable(logging.CRITICAL)\nstructlog.configure(processors=[])\ntriage = made('triage')\n",
    )
    assert "triage" in find_agents(["shop_i:triage"]).names
    logging.getLogger("theirs").warning("card %s", "bob@example.com")
    get_logger().warning("ours", fact=1)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hello\n")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("message"), line.get("fact")) for line in lines] == [
        ("library", "card %s", None),
        ("ours", None, 1),
    ]


def test_a_module_leaves_handlers_of_signals_as_they_were(write: Write) -> None:
    """SIGTERM still drains, though a library wants it for itself."""
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    write("shop_s", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntriage = made('triage')")
    assert "triage" in find_agents(["shop_s:triage"]).names
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before


def test_a_working_directory_that_is_gone_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find_agents().names == ("canary", "explore", "golden")


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


def test_agents_of_users_are_named_before_those_that_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo_agents.py").write_text(AGENT + "zebra = made('zebra')\n")
    monkeypatch.syspath_prepend(tmp_path)
    agents = find_agents(["zoo_agents:zebra"])
    assert agents.names_by_owner[0] == "zebra"
    assert sorted(agents.names_by_owner) == list(agents.names)

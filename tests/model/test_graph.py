from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrate.agents_for_tests import Named
from runwire.errors import GraphError
from runwire.model.event import error_trace
from runwire.model.graph import DEFAULT_TIMEOUT_S, END, Agent, Agents, Context, Wait


@dataclass
class Nothing:
    pass


async def step(_ctx: Context, _state: Nothing) -> None: ...


def test_a_run_is_expected_to_take_what_its_agent_declares_or_as_long_as_its_longest_node_may() -> None:
    agents = Agents()
    for name, expected_s, timeout_s in (("declared", 45.0, 3000.0), ("long", None, 3000.0), ("usual", None, 10.0)):
        one = Agent(name, start="A", state=Nothing, expected_s=expected_s)
        one.node(name="A", to=END, timeout_s=timeout_s)(step)
        agents.add(one)
    assert agents.expected_s(600.0) == {"declared": 45.0, "long": 3000.0, "usual": 600.0}


@pytest.mark.parametrize("expected_s", [0, -1, float("inf"), float("nan"), "60", 31 * 86_400.0, True])
def test_an_expectation_that_is_no_time_is_refused(expected_s: Any) -> None:
    one = Agent("one", start="A", state=Nothing, expected_s=expected_s)
    one.node(name="A", to=END)(step)
    with pytest.raises(GraphError, match="expected_s is in seconds"):
        one.check()


def agent(*, start: str = "A", name: str = "example", **nodes: Any) -> Agent[Nothing]:
    """An agent with a node for each keyword: its `to`, or all of its settings as a dict."""
    made = Agent(name, start=start, state=Nothing)
    for node, given in nodes.items():
        settings = given if isinstance(given, dict) else {"to": given}
        made.node(name=node, **settings)(step)
    return made


def problems_of(made: Agent[Nothing]) -> tuple[str, ...]:
    with pytest.raises(GraphError) as caught:
        made.check()
    assert caught.value.agent == made.name
    assert caught.value.code == "invalid_graph"
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(
    "sound",
    [
        lambda: agent(A=END),
        lambda: agent(A="B", B=END),
        lambda: agent(A=("B", "C"), B="A", C=END),
        lambda: agent(A=("A", END)),
        lambda: agent(A={"to": END, "on_error": "R"}, R=END),
        lambda: agent(A={"to": "A", "on_error": END}),
        lambda: agent(A={"to": "B", "on_error": "A"}, B=END),
    ],
)
def test_branches_loops_and_recovery_make_a_sound_graph(sound: Callable[[], Agent[Nothing]]) -> None:
    sound().check()


def test_names_from_an_enumeration_are_plain_text() -> None:
    made = Agent(Named.ANSWER, start=Named.REPORT, state=Nothing)
    made.node(name=Named.REPORT, to=(Named.DONE,), on_error=Named.DONE)(step)
    made.node(name=Named.DONE, waits=Wait("go", then=Named.REPORT), to=END)(step)
    made.check()
    names = [made.name, made.start, *made.nodes]
    names += [name for node in made.nodes.values() for name in (node.name, *node.exits())]
    assert {type(name) for name in names} == {str}
    assert made.name == "answer"


def test_a_node_is_named_after_its_function_and_has_defaults() -> None:
    made = Agent("example", start="OpenApp", state=Nothing)

    @made.node()
    async def open_app(_ctx: Context, _state: Nothing) -> None: ...

    node = made.nodes["OpenApp"]
    assert (node.to, node.timeout_s, node.retries, node.on_error) == ((END,), DEFAULT_TIMEOUT_S, 0, None)
    assert node.fn_name == "openApp"
    assert node.exits() == (END,)
    made.check()


@pytest.mark.parametrize(
    ("settings", "longest_s"),
    [
        ({"timeout_s": 10.0}, 10.0),
        ({"timeout_s": 10.0, "retries": 2, "backoff_s": 1.0}, 33.0),
        ({"timeout_s": 1.0, "retries": 100, "backoff_s": 60.0}, 6101.0),
        ({"timeout_s": 1.0, "retries": 3000, "backoff_s": 0.0}, 3001.0),
    ],
)
def test_how_long_all_tries_of_a_node_take_at_most(settings: dict[str, Any], longest_s: float) -> None:
    assert agent(A={"to": END, **settings}).nodes["A"].longest_s == longest_s


def test_any_number_of_retries_has_a_longest_time() -> None:
    node = agent(A={"to": END, "timeout_s": 1.0, "retries": 10**400, "backoff_s": 1e308}).nodes["A"]
    assert 0 < node.longest_s < float("inf")


def test_targets_may_be_any_iterable_of_names() -> None:
    made = agent(A=iter(["B", END]), B=END)
    made.check()
    assert made.nodes["A"].to == ("B", END)


def test_declaring_a_node_gives_the_function_back() -> None:
    made = Agent("example", start="Step", state=Nothing)
    assert made.node()(step) is step


def test_a_start_that_is_not_declared_is_refused() -> None:
    assert problems_of(agent(start="Z", A=END)) == ("start node 'Z' is not declared",)


def test_an_agent_without_nodes_is_refused() -> None:
    assert problems_of(agent()) == ("start node 'A' is not declared",)


@pytest.mark.parametrize("settings", [{"to": "Z"}, {"to": ("B", "Z")}, {"to": "B", "on_error": "Z"}])
def test_an_unknown_target_is_refused(settings: dict[str, Any]) -> None:
    assert problems_of(agent(A=settings, B=END)) == ("node 'A' leads to unknown node 'Z'",)


def test_an_unreachable_node_is_refused_and_named() -> None:
    assert problems_of(agent(A=END, B="C", C=END)) == (
        "node 'B' cannot be reached from 'A'",
        "node 'C' cannot be reached from 'A'",
    )


def test_a_node_with_no_way_to_the_end_is_refused_and_named() -> None:
    assert problems_of(agent(A=("B", END), B="C", C="B")) == (
        "node 'B' has no way to the end",
        "node 'C' has no way to the end",
    )


def test_a_node_that_leads_nowhere_is_refused() -> None:
    assert problems_of(agent(A=())) == ("node 'A' leads nowhere",)


def test_a_node_declared_twice_is_refused() -> None:
    made = agent(A=END)
    made.node(name="A")(step)
    assert problems_of(made) == ("node 'A' is declared twice",)


@pytest.mark.parametrize("name", ["", "1a", "a b", "ä", "x" * 129, "a/b", "a\n"])
def test_a_name_that_cannot_travel_in_an_event_is_refused(name: str) -> None:
    made = Agent("example", start=name, state=Nothing)
    made.node(name=name)(step) if name else made.node()(_nameless())
    assert len(problems_of(made)) == 1
    assert len(problems_of(agent(name=name, A=END))) == 1


def _nameless() -> Any:
    class Step:
        async def __call__(self, _ctx: Context, _state: Nothing) -> None: ...

    return Step()


@pytest.mark.parametrize("name", ["a", "_", "OpenApp", "open_app_2", "x" * 64])
def test_every_node_name_allowed_makes_an_error_trace(name: str) -> None:
    made = agent(start=name, **{name: END})
    made.check()
    assert error_trace("boom", made.nodes[name].fn_name).fn == f"error:boom:{made.nodes[name].fn_name}"


@pytest.mark.parametrize("name", ["a.b", "a:b", "a-b", "x" * 65])
def test_a_node_name_that_would_not_fit_an_error_trace_is_refused(name: str) -> None:
    assert len(problems_of(agent(start=name, **{name: END}))) == 1


def test_a_node_cannot_be_called_end() -> None:
    problems = problems_of(agent(start=END, END=END))
    assert any("not be 'END'" in problem for problem in problems)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"retries": -1},
        {"backoff_s": -0.1},
        {"backoff_s": float("nan")},
    ],
)
def test_timeouts_retries_and_backoff_are_bounded(settings: dict[str, Any]) -> None:
    assert len(problems_of(agent(A={"to": END, **settings}))) == 1


def test_every_problem_is_named_at_once() -> None:
    made = agent(name="no good", start="Z", A={"to": ("X", "Y"), "retries": -1})
    assert len(problems_of(made)) == 5


def test_wait_says_for_what_and_then_where() -> None:
    assert Wait("approved", then="B") == Wait(signal="approved", then="B")


def test_agents_are_found_by_name() -> None:
    first, second = agent(name="one", A=END), agent(name="two", A=END)
    agents = Agents([second, first])
    assert agents.get("one") is first
    assert agents.get("three") is None
    assert agents.names == ("one", "two")


def test_adding_the_same_agent_again_changes_nothing_and_another_of_its_name_is_refused() -> None:
    first = agent(name="one", A=END)
    agents = Agents([first, first])
    with pytest.raises(GraphError, match="taken"):
        agents.add(agent(name="one", A=END))
    assert agents.get("one") is first


def test_an_agent_that_cannot_run_is_not_taken() -> None:
    agents = Agents()
    with pytest.raises(GraphError):
        agents.add(agent(A="Z"))
    assert agents.names == ()

"""The protocol's rules are numbered and each names a test that exists."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache

import pytest

from docs.pages import DOCS, ROOT

RULE = re.compile(r"^- \*\*([A-Z])(\d+)\*\* (.*?)(?=^- \*\*|^$)", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@dataclass(frozen=True, slots=True)
class Rule:
    letter: str
    number: int
    text: str


RULES = [Rule(letter, int(number), text) for letter, number, text in RULE.findall((DOCS / "protocol.md").read_text())]


@cache
def names_of_tests(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def test_rules_are_numbered_without_holes_in_each_chapter() -> None:
    assert {rule.letter for rule in RULES} == set("CEHMRSTX")
    for letter in "CEHMRSTX":
        numbers = [rule.number for rule in RULES if rule.letter == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.letter}{rule.number}")
def test_a_rule_names_a_test_that_exists(rule: Rule) -> None:
    named = TEST.findall(rule.text)
    assert named, rule.text
    for path, test in named:
        assert test in names_of_tests(path), f"{path}::{test}"


@pytest.mark.parametrize("page", ["architecture/flow.md", "protocol.md"])
def test_every_test_a_page_names_exists(page: str) -> None:
    text = (DOCS / page).read_text()
    for path, test in TEST.findall(text):
        assert test in names_of_tests(path), f"{path}::{test}"


def test_every_invariant_names_its_proof() -> None:
    chapter = (DOCS / "architecture" / "flow.md").read_text().split("\n## Invariants\n")[1].split("\n## ")[0]
    invariants = chapter.split("\n### ")[1:]
    assert [invariant[0] for invariant in invariants] == list("123456")
    for invariant in invariants:
        assert TEST.search(invariant), invariant.partition("\n")[0]
        assert "Held by:" in invariant

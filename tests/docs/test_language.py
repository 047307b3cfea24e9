"""The check of the project's prose: it finds each kind of sentence that a reader stumbles over, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from scripts import script


@pytest.fixture(scope="module")
def language() -> ModuleType:
    return script("check_language")


def rules(language: ModuleType, text: str) -> list[str]:
    return [found.rule for found in language.findings([language.Prose(Path("page.md"), 1, text)])]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("What was given up comes back.", "starts with a relative clause"),
        ("Nothing is lost. Who finds the queue full is refused.", "starts with a relative clause"),
        ("Whatever a node raises is logged.", "starts with a relative clause"),
        ("It is done: `a`. Whose run it is does not matter.", "starts with a relative clause"),
        ("As many runs are open as may be: no. They end by and by.", r"banned phrase 'by and by'"),
        ("The service has as many as it may have.", "banned phrase 'as (?:many|much) as (?:it|they|there) may'"),
        ("No connection could be had.", "banned phrase 'be had'"),
        ("An error nobody foresaw.", "banned phrase 'nobody foresaw'"),
        (" ".join(["word"] * 41) + ".", "more than 40 words"),
    ],
)
def test_a_sentence_that_needs_a_second_reading_is_found(language: ModuleType, text: str, rule: str) -> None:
    assert rule in rules(language, text)


@pytest.mark.parametrize(
    "text",
    [
        "What happens when the publisher dies?",
        "The hub reads what it misses, and the client sees each event once.",
        "A worker that holds a lease renews it.",
        "Whether the run has ended.",
        "Two sentences. " + " ".join(["Word"] * 30) + ". " + " ".join(["Word"] * 30) + ".",
        "See [what happens](protocol.md), which is **short**.",
    ],
)
def test_a_plain_sentence_is_not_found(language: ModuleType, text: str) -> None:
    assert rules(language, text) == []


def test_python_is_read_where_people_read_it(language: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        '"""What a module does.\n\n    What   is drawn\n    Who    is drawn, too\n\nWho reads this.\n"""\n'
        "# Who comments.\n"
        "x = 1  # noqa: S101  # Whose reason.\n"
        'option(help="What it is.", default="What it is not.")\n'
        'raise ValueError("What is wrong.")\n'
        'panel("What is shown.", "What is a name")\n'
        'y = "What is data."\n',
        encoding="utf-8",
    )
    found = [one.text for one in language.python_prose(source)]
    assert sorted(found) == sorted(
        [
            "What a module does.",
            "Who reads this.",
            "Who comments.",
            "Whose reason.",
            "What it is.",
            "What is wrong.",
            "What is shown.",
        ]
    )


def test_markdown_is_read_without_code_and_what_a_program_wrote(language: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What a heading asks\n\nOne\nparagraph.\n\n- An item\n- Another\n\n```\nWhat is code.\n```\n\n"
        "| a cell | b |\n\n<!-- written by x -->\nWhat is generated.\n<!-- end -->\n",
        encoding="utf-8",
    )
    assert [one.text for one in language.markdown_prose(page)] == ["One paragraph.", "An item", "Another", "a cell"]


def test_comments_of_sql_and_c_are_read_as_paragraphs(language: ModuleType, tmp_path: Path) -> None:
    statements = tmp_path / "statements.sql"
    statements.write_text("-- name: append\n-- All or\n-- nothing.\nSELECT 1 -- Not alone.\n", encoding="utf-8")
    assert [one.text for one in language.comment_prose(statements)] == ["All or nothing."]

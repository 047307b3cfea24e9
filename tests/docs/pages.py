"""The documentation as data: its pages, their headings, links and fenced blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors.index import slugify

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUNBOOK = DOCS / "runbooks" / "run-diagnostics.md"

_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `title` is its first line, without comment signs, when that is a comment."""

    page: Path
    language: str
    line: int
    text: str

    @property
    def title(self) -> str:
        first = self.text.partition("\n")[0]
        return first.lstrip("-#/ ") if first.startswith(("--", "#", "//")) else ""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} {self.title}".strip()


def pages() -> list[Path]:
    """Every page of the documentation, and the README."""
    return [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's fenced blocks in any of these languages, in order."""
    return [
        Block(page, token.info.strip(), (token.map or [0])[0] + 1, token.content)
        for token in _MARKDOWN.parse(page.read_text())
        if token.type == "fence" and token.info.strip() in languages
    ]


@cache  # pages link to each other's headings hundreds of times
def headings(page: Path) -> list[tuple[int, str, str]]:
    """(level, text, anchor) of each heading, in order."""
    found: list[tuple[int, str, str]] = []
    tokens = _MARKDOWN.parse(page.read_text())
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
            found.append((int(opening.tag[1:]), text, slugify(text)))
    return found


def links(page: Path) -> Iterator[str]:
    """The target of every link on the page."""
    for token in _inline(page):
        if token.type == "link_open":
            yield str(token.attrs["href"])


def images(page: Path) -> Iterator[tuple[str, str]]:
    """The source of every picture on the page, and what it says to those who do not see it."""
    for token in _inline(page):
        if token.type == "image":
            yield str(token.attrs["src"]), token.content


def code_spans(page: Path) -> Iterator[str]:
    """The texts between backticks in running text and tables."""
    for token in _inline(page):
        if token.type == "code_inline":
            yield token.content


def _inline(page: Path) -> Iterator[Token]:
    for token in _MARKDOWN.parse(page.read_text()):
        yield from token.children or ()

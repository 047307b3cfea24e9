"""Reads the project's prose and names sentences that a reader would stumble over: `make language`.

Prose is what people read: docstrings, comments, `description=` and `help=` texts, messages of errors, Markdown pages,
comments of SQL and C files. The rules are those that a program can check; docs/glossary.md decides about words.
"""  # noqa: INP001  # a script

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SENTENCE_WORDS_MAX: Final = 40
UNCHECKED: Final = ("src/runwire/db/migrations/",)
"""Migrations never change, since their checksums are stored."""

RELATIVE_START: Final = re.compile(r"^(?:What|Who|Whom|Whose|Whoever|Whatever|Whichever) (?!.*\?$)")
BANNED: Final = {
    pattern: re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bby and by\b",
        r"\bas many as may be\b",
        r"\blet in by\b",
        r"\bto be let in\b",
        r"\bthat is it\b",
        r"\bin vain\b",
        r"\bbe had\b",
        r"\bwhosoever\b",
        r"\bas (?:many|much) as (?:it|they|there) may\b",
        r"\bnobody foresaw\b",
    )
}
_EDGE: Final = r"\b"
_SENTENCE_END: Final = re.compile(r"(?<=[a-z0-9`)\"'])[.:;?!](?:\s+|$)(?=[A-Z`\"(]|$)")
_SENTENCE: Final = re.compile(r"[A-Z].* .*[.?!]$", re.DOTALL)
_KEYWORDS: Final = frozenset({"description", "help", "title", "epilog", "short_help", "remedy", "seen"})


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph and where it begins."""

    path: Path
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    line: int
    rule: str
    sentence: str

    def __str__(self) -> str:
        shown = self.sentence if len(self.sentence) <= 140 else self.sentence[:137] + "..."
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.rule}: {shown}"


def python_prose(path: Path) -> Iterator[Prose]:
    """Docstrings (those of attributes, too), texts for people (arguments that are sentences, too), and comments."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    raised: set[ast.Call] = set()  # found before their calls, since the walk is breadth first
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from _paragraphs(path, node.lineno, node.value.value)
        elif isinstance(node, ast.keyword) and node.arg in _KEYWORDS and (text := _text(node.value)):
            yield Prose(path, node.value.lineno, text)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised.add(node.exc)
            yield from _arguments(path, node.exc)
        elif isinstance(node, ast.Call) and node not in raised:
            yield from (part for part in _arguments(path, node) if _SENTENCE.match(part.text))
    yield from _comments(path, source)


def _arguments(path: Path, call: ast.Call) -> Iterator[Prose]:
    return (Prose(path, argument.lineno, text) for argument in call.args if (text := _text(argument)))


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) and " " in node.value else ""
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) and isinstance(p.value, str) else "x" for p in node.values)
        return "".join(parts)
    return ""


def _comments(path: Path, source: str) -> Iterator[Prose]:
    block: list[str] = []
    begins = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        # An off-switch explains itself after a second `#`.
        text = re.sub(r"^(?:noqa|type|pragma|fmt)\b.*?(?:#|$)", "", token.string.lstrip("# ")).strip()
        alone = token.line.lstrip().startswith("#")
        if block and not (alone and token.start[0] == last + 1):
            yield Prose(path, begins, " ".join(block))
            block = []
        if text:
            begins = token.start[0] if not block else begins
            block.append(text)
            last = token.start[0]
    if block:
        yield Prose(path, begins, " ".join(block))


def comment_prose(path: Path) -> Iterator[Prose]:
    """Comments of SQL and C files."""
    lines = path.read_text(encoding="utf-8").splitlines()
    block: list[str] = []
    begins = 0
    for number, line in enumerate([*lines, ""], 1):
        match = re.match(r"\s*(?:--|//|/\*+|\*)\s?(.*?)(?:\*/)?$", line)
        text = match.group(1).strip() if match else ""
        if not text or text.startswith("name:"):
            if block:
                yield Prose(path, begins, " ".join(block))
            block = []
        else:
            begins = begins if block else number
            block.append(text)


def markdown_prose(path: Path) -> Iterator[Prose]:
    """Paragraphs, list items and table cells; neither code nor what a program has written."""
    block: list[str] = []
    begins, fenced, generated = 0, False, False
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate([*lines, ""], 1):
        stripped = line.strip()
        if stripped.startswith("```"):
            fenced = not fenced
        if re.match(r"<!-- (?:written by\b|[\w-]+:begin\b)", stripped):
            generated = True
        elif re.match(r"<!-- (?:end\b|[\w-]+:end\b)", stripped):
            generated = False
        item = re.match(r"^(?:[-*] |\d+\. )(.*)", stripped)
        plain = not fenced and not generated and stripped and not stripped.startswith(("#", "|", "```", "<", "!["))
        if block and (not plain or item):
            yield Prose(path, begins, " ".join(block))
            block = []
        if stripped.startswith("|") and not fenced and not generated:
            for cell in stripped.strip("|").split("|"):
                if " " in cell.strip():
                    yield Prose(path, number, cell.strip())
        elif plain:
            begins = begins if block else number
            block.append(item.group(1) if item else stripped)


def _paragraphs(path: Path, line: int, text: str) -> Iterator[Prose]:
    """The paragraphs of a docstring without its drawings."""
    margin = min((len(row) - len(row.lstrip()) for row in text.splitlines()[1:] if row.strip()), default=0)
    for paragraph in re.split(r"\n[ \t]*\n", text):
        rows = [row for row in paragraph.splitlines() if row.strip()]
        if not _is_drawing(rows, margin):
            yield Prose(path, line, " ".join(paragraph.split()))
        line += paragraph.count("\n") + 2


def _is_drawing(rows: list[str], margin: int) -> bool:
    """Whether all rows are indented further than the text, or stand in columns."""
    return all(row.startswith(" " * (margin + 2)) or re.search(r"\S {2,}\S", row) for row in rows)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a paragraph, without Markdown's marks."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("**", "")
    begin = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[begin : end.start() + 1].strip()
        begin = end.end()
    if rest := text[begin:].strip():
        yield rest


def findings(prose: Iterable[Prose]) -> Iterator[Finding]:
    for part in prose:
        for sentence in sentences(part.text):
            if RELATIVE_START.match(sentence):
                yield Finding(part.path, part.line, "starts with a relative clause", sentence)
            for phrase, pattern in BANNED.items():
                if pattern.search(sentence):
                    yield Finding(
                        part.path,
                        part.line,
                        f"banned phrase {phrase.removeprefix(_EDGE).removesuffix(_EDGE)!r}",
                        sentence,
                    )
            if len(sentence.split()) > SENTENCE_WORDS_MAX:
                yield Finding(part.path, part.line, f"more than {SENTENCE_WORDS_MAX} words", sentence)


def project_prose() -> Iterator[Prose]:
    """All prose of the project but that of `UNCHECKED`."""
    return (part for part in _all_prose() if not str(part.path.relative_to(ROOT)).startswith(UNCHECKED))


def _all_prose() -> Iterator[Prose]:
    for folder in ("src", "tests", "benchmarks", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from python_prose(path)
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix in (".sql", ".c"):
            yield from comment_prose(path)
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        yield from markdown_prose(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="print only how many findings each rule has")
    asked = parser.parse_args()
    found = list(findings(project_prose()))
    if asked.count:
        for rule in sorted({one.rule for one in found}):
            print(f"{sum(one.rule == rule for one in found):5} {rule}")  # noqa: T201  # the result
    else:
        for one in found:
            print(one)  # noqa: T201  # the result
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

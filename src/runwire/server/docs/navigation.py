"""The order of the pages: the index lists them in groups, and everything else follows from this list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from runwire.server.docs.markdown import parsed, plain
from runwire.server.docs.source import Source

PROBLEMS: Final = "problems"
"""The page of the error codes. The service makes it from its declarations."""
_BEFORE_PROBLEMS: Final = "protocol"


@dataclass(frozen=True, slots=True)
class Entry:
    """A page and its name in the list."""

    page: str
    name: str


@dataclass(frozen=True, slots=True)
class Group:
    """The pages for one kind of reader."""

    title: str
    entries: list[Entry] = field(default_factory=list)


def navigation(source: Source) -> Sequence[Group]:
    """The groups of the index: a heading of the second level, and the first link of each item below it.

    Without an index there is one group of all documents. The error codes follow the protocol, or come last.
    """
    groups = list(_groups(source)) or [Group("Pages", [Entry(page, _title(source, page)) for page in source.documents])]
    problems = Entry(PROBLEMS, "Error codes")
    for group in groups:
        for number, entry in enumerate(group.entries):
            if entry.page == _BEFORE_PROBLEMS:
                group.entries.insert(number + 1, problems)
                return groups
    groups[-1].entries.append(problems)
    return groups


def _groups(source: Source) -> Sequence[Group]:
    groups: list[Group] = []
    item = False
    tokens = parsed(source.text("") or "")
    for number, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            groups.append(Group(plain(tokens[number + 1])))
        elif token.type == "list_item_open":
            item = True
        elif token.type == "inline" and item and groups:
            item = False
            links = [position for position, child in enumerate(token.children or ()) if child.type == "link_open"]
            if links and token.children:
                page = source.page_of(str(token.children[links[0]].attrs["href"]), at="")
                if page:
                    groups[-1].entries.append(Entry(page, token.children[links[0] + 1].content))
    return [group for group in groups if group.entries]


def _title(source: Source, page: str) -> str:
    heading = next((line for line in (source.text(page) or "").splitlines() if line.startswith("# ")), "")
    return heading.removeprefix("# ").strip() or page.rpartition("/")[2]

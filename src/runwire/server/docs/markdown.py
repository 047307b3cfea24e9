"""One document as HTML that a strict content security policy accepts: no inline style, no script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from mdit_py_plugins.anchors import anchors_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

_COMMENT: Final = re.compile(r"^<!--.*-->\n", re.MULTILINE)
"""A marker around a generated part of a document."""
_ALIGNED: Final = re.compile(r"text-align:(\w+)")
_FORMATTER: Final = HtmlFormatter(nowrap=True)
_DEEPEST_IN_CONTENTS: Final = 3
_MANY_COLUMNS: Final = 5
_LONG_CELL: Final = 60

LinkTarget = Callable[[str], str | None]
"""The address on the site for the path of a relative link, or None when the site has no such page."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the text below it, up to the next heading. Text has no marks; code is part of it."""

    level: int
    title: str
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A rendered page. Its sections are in order; the first one is the page's title and introduction."""

    html: str
    sections: tuple[Section, ...]

    @property
    def title(self) -> str:
        return self.sections[0].title if self.sections else ""

    @property
    def contents(self) -> tuple[Section, ...]:
        """The sections for the table of contents: headings of the second and third level."""
        return tuple(section for section in self.sections if 1 < section.level <= _DEEPEST_IN_CONTENTS)


@dataclass(slots=True)
class _Open:
    """A section that is being collected."""

    level: int
    title: str
    anchor: str
    words: list[str] = field(default_factory=list)

    def done(self) -> Section:
        return Section(self.level, self.title, self.anchor, " ".join(" ".join(self.words).split()))


def document(text: str, *, target: LinkTarget) -> Document:
    """The Markdown text as a page. Links for which `target` knows no address become plain text."""
    tokens = parsed(text)
    sections = tuple(_sections(tokens))
    for token in tokens:
        _point(token.children, target)
    _link_headings(tokens)
    _label_cells(tokens)
    html: str = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    return Document(html, sections)


def parsed(text: str) -> list[Token]:
    """The tokens of a document, headings with their anchors."""
    return _MARKDOWN.parse(_COMMENT.sub("", text))


def plain(inline: Token) -> str:
    """The words of a heading, a paragraph or a cell."""
    words = (" " if child.type == "softbreak" else child.content for child in inline.children or ())
    return "".join(words)


def _sections(tokens: Sequence[Token]) -> Iterator[Section]:
    current: _Open | None = None
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            if current is not None:
                yield current.done()
            current = _Open(int(token.tag[1:]), plain(tokens[number + 1]), str(token.attrs.get("id", "")))
        elif current is None or (number and tokens[number - 1].type == "heading_open"):
            continue
        elif token.type == "inline":
            current.words.append(plain(token))
        elif token.type in ("fence", "code_block"):
            current.words.append(token.content)
    if current is not None:
        yield current.done()


def _point(children: list[Token] | None, target: LinkTarget) -> None:
    """Gives relative links and pictures their address on the site."""
    dead = 0
    for token in children or ():
        if token.type == "link_close" and dead:
            token.type, token.tag, dead = "text", "", dead - 1
            continue
        attribute = {"link_open": "href", "image": "src"}.get(token.type)
        to = str(token.attrs.get(attribute, "")) if attribute else ""
        parts = urlsplit(to)
        if attribute is None or parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
            continue
        address = target(parts.path)
        if address is not None:
            token.attrs[attribute] = address + (f"#{parts.fragment}" if parts.fragment else "")
        elif token.type == "link_open":
            token.type, token.tag, token.attrs, dead = "text", "", {}, dead + 1
        else:
            del token.attrs[attribute]


def _link_headings(tokens: Sequence[Token]) -> None:
    """Adds a link to each heading below the title, so that readers can copy its address."""
    for number, token in enumerate(tokens):
        anchor = token.attrs.get("id") if token.type == "heading_open" and token.tag != "h1" else None
        if anchor is not None:
            inline = tokens[number + 1]
            label = f"Link to {plain(inline)}"
            link = f' <a class="anchor" href="#{escape(str(anchor))}" aria-label="{escape(label)}">#</a>'
            inline.children = [*(inline.children or ()), Token("html_inline", "", 0, content=link)]


def _label_cells(tokens: Sequence[Token]) -> None:
    """Gives each cell the title of its column, which stands beside it in a card, and alignment by class.

    A table of many columns, one of them with long texts, becomes a list of cards on every screen.
    """
    table, heads, column = Token("", "", 0), list[str](), 0
    for number, token in enumerate(tokens):
        if token.type == "table_open":
            table, heads = token, []
        elif token.type == "thead_close":
            table.attrSet("data-columns", str(len(heads)))
        elif token.type == "tr_open":
            column = 0
        elif token.type == "th_open":
            heads.append(plain(tokens[number + 1]))
            _align(token)
            if not heads[-1]:  # a header without a text is none
                token.tag = tokens[number + 2].tag = "td"
        elif token.type == "td_open":
            _align(token)
            token.attrSet("data-label", heads[column])
            if len(plain(tokens[number + 1])) > _LONG_CELL:
                token.attrJoin("class", "long")
                if len(heads) >= _MANY_COLUMNS:
                    table.attrSet("class", "cards")
            column += 1


def _align(cell: Token) -> None:
    if aligned := _ALIGNED.search(str(cell.attrs.pop("style", ""))):
        cell.attrJoin("class", f"at-{aligned.group(1)}")


class _Renderer(RendererHTML):
    """HTML with highlighted code, and with tables and code that a keyboard can scroll."""

    def fence(self, tokens: Sequence[Token], idx: int, _options: OptionsDict, _env: EnvType) -> str:
        language = tokens[idx].info.strip()
        return f'<pre tabindex="0"><code{_class(language)}>{_highlighted(tokens[idx].content, language)}</code></pre>\n'

    def table_open(self, tokens: Sequence[Token], idx: int, _options: OptionsDict, _env: EnvType) -> str:
        attributes = self.renderAttrs(tokens[idx])
        return f'<div class="table" tabindex="0" role="group" aria-label="Table"><table{attributes}>\n'

    def code_inline(self, tokens: Sequence[Token], idx: int, _options: OptionsDict, _env: EnvType) -> str:
        """Code, which may break after a slash."""
        return f"<code>{escape(tokens[idx].content, quote=False).replace('/', '/<wbr>')}</code>"

    def table_close(self, _tokens: Sequence[Token], _idx: int, _options: OptionsDict, _env: EnvType) -> str:
        return "</table></div>\n"


def _class(language: str) -> str:
    return f' class="language-{escape(language)}"' if language else ""


def _highlighted(code: str, language: str) -> str:
    """The code with its parts in spans of Pygments' classes, or as it is in a language that Pygments does not know."""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return escape(code, quote=False)
    coloured: str = highlight(code, lexer, _FORMATTER)
    return coloured


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    return made.use(anchors_plugin, max_level=4)


_MARKDOWN: Final = _markdown()

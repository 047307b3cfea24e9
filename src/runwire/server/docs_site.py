"""The documentation as a small web site: docs/*.md rendered. Its entry is docs/index.md, or a list of all pages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

from runwire.errors import DECLARED, Declared
from runwire.server.static_files import Content, packaged, served

_ASSETS: Final = (".png", ".svg", ".json")
_PROBLEMS: Final = "problems"
_INDEX: Final = "index.md"
_COMMENT: Final = re.compile(r"^<!--.*-->\n", re.MULTILINE)
"""A marker around a generated part of a document."""


def docs_folder() -> Traversable | None:
    """Where the documents are: in the installed package, or beside the sources; None where they were left out."""
    beside_sources = Path(__file__).resolve().parents[3] / "docs"
    candidates: tuple[Traversable, ...] = (files("runwire") / "docs", beside_sources)
    return next((folder for folder in candidates if folder.is_dir()), None)


class DocsSite:
    """Pages by address. Each is rendered when it is first asked for."""

    def __init__(self, folder: Traversable | None) -> None:
        self._sources = dict(sorted(_walk(folder))) if folder is not None else {}
        self._template = Template((files("runwire.server") / "site" / "page.html").read_text("utf-8"))
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
        self._markdown.use(anchors_plugin, max_level=4, permalink=True, permalinkSymbol="#")
        self._rendered: dict[str, Content] = {}

    @property
    def pages(self) -> tuple[str, ...]:
        """Every page but the index: `telemetry`, `runbooks/run-diagnostics`."""
        documents = (name.removesuffix(".md") for name in self._sources if name.endswith(".md") and name != _INDEX)
        return (*documents, _PROBLEMS)

    def content(self, path: str) -> Content | None:
        """The page or picture at `path` under /docs/, or None. The empty path is the index."""
        if path not in self._rendered:
            made = self._made(path)
            if made is None:
                return None
            self._rendered[path] = made
        return self._rendered[path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        content = self.content(request.match_info["path"])
        if content is None:
            raise web.HTTPNotFound
        return content.response(request)

    def _made(self, path: str) -> Content | None:
        name = f"{path}.md" if path else _INDEX
        if path == "" and name not in self._sources:
            return self._page("Documentation", self._index(), at="")
        if path == _PROBLEMS:
            return self._page("Problems", self._markdown.render(_problems_page()), at=path)
        if path.endswith(_ASSETS) and path in self._sources:
            return Content.of(self._sources[path].read_bytes(), name=path)
        source = self._sources.get(name)
        if source is None or path == _INDEX.removesuffix(".md"):
            return None
        text = _COMMENT.sub("", source.read_text("utf-8"))
        tokens = self._markdown.parse(text)
        for token in tokens:
            for inline in token.children or ():
                self._point(inline, at=path)
        return self._page(
            _title(text, path), self._markdown.renderer.render(tokens, self._markdown.options, {}), at=path
        )

    def _point(self, token: Token, *, at: str) -> None:
        """Turns a link to a document of this site into its address here; other files of the project have none."""
        attribute = {"link_open": "href", "image": "src"}.get(token.type)
        target = str(token.attrs.get(attribute, "")) if attribute else ""
        parts = urlsplit(target)
        if attribute is None or parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
            return
        name = posixpath.normpath(posixpath.join(posixpath.dirname(at), parts.path))
        if name not in self._sources:
            del token.attrs[attribute]
            return
        page = "" if name == _INDEX else name.removesuffix(".md")
        token.attrs[attribute] = _from(at) + page + (f"#{parts.fragment}" if parts.fragment else "")

    def _index(self) -> str:
        items = "".join(f'<li><a href="{escape(page)}">{escape(self._name(page))}</a></li>' for page in self.pages)
        return f'<h1>runwire</h1><p>All documents:</p><ul>{items}</ul><p><a href="../">Console</a></p>'

    def _name(self, page: str) -> str:
        source = self._sources.get(f"{page}.md")
        return "Problems" if source is None else _title(source.read_text("utf-8"), page)

    def _page(self, title: str, body: str, *, at: str) -> Content:
        links = "".join(
            f'<li><a href="{_from(at)}{escape(page)}"{" aria-current=page" if page == at else ""}>'
            f"{escape(self._name(page))}</a></li>"
            for page in self.pages
        )
        html = self._template.substitute(title=escape(title), body=body, links=links, docs=_from(at))
        return Content.of(html.encode(), name="page.html")


def add_docs(app: web.Application, site: DocsSite, *, public: Callable[[Handler], Handler]) -> None:
    """Adds the site's routes; `public` makes handlers anybody may call."""

    async def to_index(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": "docs/"})  # relative: a proxy may have added a prefix

    app.router.add_get("/docs", public(to_index))
    app.router.add_get("/docs/docs.css", public(served(packaged("site", "docs.css"))))
    app.router.add_get("/docs/{path:.*}", public(site.handle))


def _walk(folder: Traversable, at: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{at}{entry.name}/")
        elif entry.name.endswith((".md", *_ASSETS)):
            yield at + entry.name, entry


def _from(page: str) -> str:
    """The way from a page to the site's index, relative: the site may be below a prefix that a proxy has put there."""
    return "../" * page.count("/") or "./"


def _title(text: str, path: str) -> str:
    first = next((line for line in text.splitlines() if line.startswith("# ")), "")
    return first.removeprefix("# ").strip() or posixpath.basename(path)


def _problems_page() -> str:
    """The error table as a document. A problem's `type` points to one of its headings."""
    sections = [_problem_section(code, declared) for code, declared in sorted(DECLARED.items())]
    return "# Problems\n\nErrors that the API answers (RFC 9457), by `code`.\n\n" + "\n".join(sections)


def _problem_section(code: str, declared: Declared) -> str:
    kind = declared.kind
    lines = [f"## {code}", f"HTTP {kind.status}. {kind.title}"]
    if kind.retry:
        lines.append("The same request may succeed after the seconds in `Retry-After`.")
    lines += [f"- `{fact.name}`: {fact.meaning}" for fact in declared.facts]
    return "\n\n".join(lines) + "\n"

"""The pages of the site by address, and the routes that serve them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from string import Template
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from runwire.server.docs.error_codes import error_codes
from runwire.server.docs.markdown import Document, document
from runwire.server.docs.navigation import PROBLEMS, Entry, navigation
from runwire.server.docs.source import Source
from runwire.server.static_files import Content, packaged

_SEARCH: Final = "search.json"
_THEME: Final = "docs/theme"
_ASSETS: Final = ("docs.css", "docs.js")


class DocsSite:
    """Pages by address. Each is rendered when it is first asked for."""

    def __init__(self, folder: Traversable | None) -> None:
        self._source = Source(folder)
        self._groups = navigation(self._source)
        self._template = Template((files("runwire.server") / _THEME / "page.html").read_text("utf-8"))
        self._rendered: dict[str, Content] = {}

    @property
    def pages(self) -> tuple[str, ...]:
        """Every page but the index, in reading order: `telemetry`, `runbooks/run-diagnostics`."""
        listed = [entry.page for entry in self._entries]
        return (*listed, *(page for page in self._source.documents if page not in listed))

    def content(self, path: str) -> Content | None:
        """The page, picture or part of the site at `path` under /docs/, or None. The empty path is the index.

        Rendering a long page takes tens of milliseconds; `handle` does it in a thread.
        """
        if path not in self._rendered:
            made = self._made(path)
            if made is None:
                return None
            self._rendered[path] = made
        return self._rendered[path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        content = self._rendered.get(path) or await asyncio.to_thread(self.content, path)
        if content is None:
            raise web.HTTPNotFound
        return content.response(request)

    @property
    def _entries(self) -> list[Entry]:
        return [entry for group in self._groups for entry in group.entries]

    def _made(self, path: str) -> Content | None:
        if path in _ASSETS:
            return packaged(_THEME, path)
        if path == _SEARCH:
            return Content.of(json.dumps(list(self._searchable()), separators=(",", ":")).encode(), name=path)
        page = self._document(path)
        if page is not None:
            return self._page(page, at=path)
        picture = self._source.picture(path)
        return Content.of(picture, name=path) if picture is not None else None

    def _document(self, page: str) -> Document | None:
        """The rendered page, or None when there is none at this address."""
        text = error_codes() if page == PROBLEMS else self._source.text(page)
        if text is None and page == "":
            text = "# Documentation\n"
        if text is None:
            return None

        def target(link: str) -> str | None:
            to = self._source.page_of(link, at=page)
            return None if to is None else _from(page) + to

        return document(text, target=target)

    def _searchable(self) -> Iterator[dict[str, object]]:
        """Each page with its sections, as docs.js expects them."""
        for page in ("", *self.pages):
            rendered = self._document(page)
            if rendered is not None:
                sections = [[section.title, section.anchor, section.text] for section in rendered.sections]
                yield {"page": page, "title": rendered.title, "sections": sections}

    def _page(self, rendered: Document, *, at: str) -> Content:
        html = self._template.substitute(
            title=escape(rendered.title or at),
            body=rendered.html,
            navigation=self._navigation(at),
            contents=_contents(rendered) if at else "",
            neighbours=self._neighbours(at),
            kind="page" if at else "home",
            docs=_from(at),
        )
        return Content.of(html.encode(), name="page.html")

    def _navigation(self, at: str) -> str:
        return "".join(
            f"<h2>{escape(group.title)}</h2><ul>"
            + "".join(
                f'<li><a href="{_from(at)}{escape(entry.page)}"{_current(entry.page, at)}>{escape(entry.name)}</a></li>'
                for entry in group.entries
            )
            + "</ul>"
            for group in self._groups
        )

    def _neighbours(self, at: str) -> str:
        """Links to the pages before and after this one in the list."""
        entries = [Entry("", "Documentation"), *self._entries]
        here = next((number for number, entry in enumerate(entries) if entry.page == at), None)
        if here is None:
            return ""
        links = []
        if here > 0:
            before = entries[here - 1]
            links.append(f'<a rel="prev" href="{_from(at)}{escape(before.page)}">{escape(before.name)}</a>')
        if here + 1 < len(entries):
            after = entries[here + 1]
            links.append(f'<a rel="next" href="{_from(at)}{escape(after.page)}">{escape(after.name)}</a>')
        return "".join(links)


def add_docs(app: web.Application, site: DocsSite, *, public: Callable[[Handler], Handler]) -> None:
    """Adds the site's routes; `public` makes handlers anybody may call."""

    async def to_index(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": "docs/"})  # relative: a proxy may have added a prefix

    app.router.add_get("/docs", public(to_index))
    app.router.add_get("/docs/{path:.*}", public(site.handle))


def _from(page: str) -> str:
    """The way from a page to the site's index, relative: the site may be below a prefix that a proxy has put there."""
    return "../" * page.count("/") or "./"


def _current(page: str, at: str) -> str:
    """Marks the page in the list. A page that is not listed counts to the nearest index: `decisions/013` to that."""
    if page == at:
        return ' aria-current="page"'
    return ' aria-current="true"' if page.endswith("/index") and at.startswith(page.removesuffix("index")) else ""


def _contents(rendered: Document) -> str:
    """The table of contents, or nothing for a page with fewer than two sections."""
    contents = rendered.contents
    if len(contents) < 2:
        return ""
    links = "".join(
        f'<li class="level-{section.level}"><a href="#{escape(section.anchor)}">{escape(section.title)}</a></li>'
        for section in contents
    )
    return (
        '<nav class="contents" aria-label="On this page"><details class="wide-open">'
        f"<summary>On this page</summary><ul>{links}</ul></details></nav>"
    )

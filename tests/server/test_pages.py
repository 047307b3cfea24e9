"""The documentation site and the console."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

from runwire.server.docs import DocsSite
from server.calls import Api


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # its signature
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.append(value)
            if name == "id" and value:
                self.ids.append(value)


def links_in(html: str) -> Links:
    found = Links()
    found.feed(html)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "start.md").write_text(
        "# Start here\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[to the book](runbooks/book.md#what-to-do) "
        "[out](../README.md) [web](https://example.org/x.md) <script>alert(1)</script>\n\n![map](map.svg)\n"
    )
    (tmp_path / "runbooks" / "book.md").write_text("# The book\n\n## What to do\n\n[back](../start.md)\n")
    (tmp_path / "map.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("not for the site")
    return tmp_path


def text(site: DocsSite, path: str) -> str:
    content = site.content(path)
    assert content is not None
    return content.body.decode()


def addresses(site: DocsSite, path: str) -> set[str]:
    """Where the links of a page lead, those within the site by their address below its index."""
    return {urljoin(f"/docs/{path}", target).removeprefix("/docs/") for target in links_in(text(site, path)).targets}


def test_the_index_leads_to_every_document(folder: Path) -> None:
    site = DocsSite(folder)
    assert site.pages == ("runbooks/book", "start", "problems")
    assert set(site.pages) <= addresses(site, "")


def test_links_between_documents_work_on_the_site_and_others_are_left_or_dropped(folder: Path) -> None:
    site = DocsSite(folder)
    targets = addresses(site, "start")
    assert "runbooks/book#what-to-do" in targets
    assert "map.svg" in targets
    assert "https://example.org/x.md" in targets
    assert not [target for target in targets if "README" in target]
    assert "what-to-do" in links_in(text(site, "runbooks/book")).ids
    assert "start" in addresses(site, "runbooks/book")


def test_tables_are_rendered_and_raw_html_is_not(folder: Path) -> None:
    page = text(DocsSite(folder), "start")
    assert "<table " in page
    assert "<title>Start here · runwire</title>" in page
    assert "<script>" not in page


def test_the_index_orders_the_pages_and_names_them(folder: Path) -> None:
    (folder / "zebra.md").write_text("# Zebra\n")
    (folder / "index.md").write_text(
        "# Home\n\n## First\n\n- [The animal](zebra.md): see [the start](start.md)\n\n## Then\n\n- [Start](start.md)\n"
    )
    site = DocsSite(folder)
    assert site.pages == ("zebra", "start", "problems", "runbooks/book")
    page = text(site, "start")
    assert "<h2>First</h2>" in page
    assert re.search(r'aria-current="page">Start</a>', page)
    assert re.search(r'rel="prev" href="./zebra">The animal</a><a rel="next" href="./problems">', page)


def test_a_page_has_a_table_of_its_headings(folder: Path) -> None:
    (folder / "long.md").write_text("# Long\n\n## One `thing`\n\n### Deep\n\n#### Deeper\n\n## Two\n")
    contents = text(DocsSite(folder), "long").partition('class="contents"')[2].partition("</nav>")[0]
    assert re.findall(r'href="#([^"]+)">([^<]+)<', contents) == [
        ("one-thing", "One thing"),
        ("deep", "Deep"),
        ("two", "Two"),
    ]


def test_search_finds_each_section_with_its_text_and_anchor(folder: Path) -> None:
    (folder / "runbooks" / "book.md").write_text("# The book\n\nHello *you*\nthere.\n\n## A `b`\n\n```sh\nls\n```\n")
    found = {page["page"]: page for page in json.loads(text(DocsSite(folder), "search.json"))}
    assert found["runbooks/book"] == {
        "page": "runbooks/book",
        "title": "The book",
        "sections": [["The book", "the-book", "Hello you there."], ["A b", "a-b", "ls"]],
    }
    assert {"", "start", "problems"} <= set(found)


def test_code_is_highlighted_and_code_of_an_unknown_language_is_left(folder: Path) -> None:
    (folder / "code.md").write_text("# Code\n\n```python\nif x < 1: pass\n```\n\n```strange\na < b\n```\n")
    page = text(DocsSite(folder), "code")
    assert '<span class="k">if</span>' in page
    assert "a &lt; b" in page


def test_each_cell_of_a_table_knows_its_column_and_aligns_without_inline_style(folder: Path) -> None:
    (folder / "table.md").write_text("# T\n\n| name | `n` |\n|---|--:|\n| a | 1 |\n")
    page = text(DocsSite(folder), "table")
    assert '<td data-label="name">a</td>' in page
    assert '<td class="at-right" data-label="n">1</td>' in page
    assert "style=" not in page


def test_a_table_of_many_columns_with_long_texts_is_shown_as_cards(folder: Path) -> None:
    for name, cell in (("long", "word " * 20), ("short", "word")):
        (folder / f"{name}.md").write_text(f"# T\n\n|a|b|c|d|e|\n|---|---|---|---|---|\n|1|2|3|4|{cell}|\n")
    site = DocsSite(folder)
    assert 'class="cards"' in text(site, "long")
    assert 'class="cards"' not in text(site, "short")


def test_nothing_but_documents_and_pictures_is_served(folder: Path) -> None:
    site = DocsSite(folder)
    assert [site.content(path) for path in ("secret.txt", "start.md", "../start", "runbooks", "runbooks/")] == [
        None
    ] * 5
    assert site.content("map.svg") is not None


def test_without_documents_there_is_still_an_index() -> None:
    assert DocsSite(None).pages == ("problems",)


async def test_every_link_of_the_site_and_the_console_leads_somewhere(api: Api) -> None:
    seen: set[str] = set()
    ids: dict[str, set[str]] = {}
    wanted: set[tuple[str, str]] = set()
    waiting = ["/", "/docs/"]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        response = await api.http.get(path)
        assert response.status_code == 200, path
        if not response.headers["Content-Type"].startswith("text/html"):
            continue
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        page = links_in(response.text)
        ids[path] = set(page.ids)
        for target in page.targets:
            assert not target.startswith("/"), f"{path} leads to {target}, which a proxy's prefix would break"
            address, fragment = urldefrag(urljoin(path, target))
            if address.startswith("/"):
                waiting.append(address)
                if fragment:
                    wanted.add((address, fragment))
    pages = {"/docs/problems", "/docs/telemetry", "/docs/img/overview.png"}
    assert pages | {"/console.js", "/console.css", "/docs/docs.css", "/docs/docs.js", "/favicon.ico"} <= seen
    assert {(address, fragment) for address, fragment in wanted if fragment not in ids.get(address, set())} == set()


async def test_pages_are_revalidated_by_etag_and_docs_without_slash_finds_them(api: Api) -> None:
    first = await api.http.get("/console.js")
    again = await api.http.get("/console.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    moved = await api.http.get("/docs")
    assert (moved.status_code, moved.headers["Location"]) == (308, "docs/")


async def test_a_page_that_has_not_changed_keeps_the_policy_it_was_sent_with(api: Api) -> None:
    """A 304 replaces the headers of the answer that the browser has (RFC 9111, 4.3.4)."""
    for path in ("/", "/docs/", "/docs/telemetry", "/console.js", "/favicon.ico", "/openapi.json"):
        first = await api.http.get(path)
        again = await api.http.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert again.status_code == 304
        policy = "Content-Security-Policy"
        assert again.headers.get(policy, first.headers[policy]) == first.headers[policy], path

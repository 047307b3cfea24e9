"""The page of the agent chat: there when it is asked for, whole, and within a policy that allows no inline script."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import pytest

from server.calls import Api


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets += [value for name in ("href", "src") if (value := given.get(name)) and not value.startswith("#")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


class TestServed:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"chat_page": True}

    async def test_all_that_the_page_and_its_modules_name_is_there_and_nothing_is_inline(self, api: Api) -> None:
        answer = await api.http.get("/chat/")
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        page = Page()
        page.feed(answer.text)
        assert page.inline == []
        left = {urljoin("/chat/", target) for target in page.targets}
        seen: set[str] = set()
        while left:
            seen.add(at := left.pop())
            found = await api.http.get(at)
            assert found.status_code == 200, at
            if at.endswith(".js"):
                assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|eval|Function)\b", found.text), at
                left |= {urljoin(at, name) for name in re.findall(r'from "(\./[^"]+)"', found.text)} - seen
        assert "/chat/turn.js" in seen

    async def test_without_the_slash_it_is_found_too(self, api: Api) -> None:
        answer = await api.http.get("/chat")
        assert (answer.status_code, answer.headers["Location"]) == (308, "chat/")


async def test_it_is_not_there_unless_it_is_asked_for(api: Api) -> None:
    assert (await api.http.get("/chat/")).status_code == 404

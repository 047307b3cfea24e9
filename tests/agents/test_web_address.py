from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.agents.web_address import normalised, origin_of, paths_within, same_site


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("https://example.com:443/a#b", "https://example.com/a"),
        ("http://example.com:8080/", "http://example.com:8080/"),
        ("http://example.com/a/./b/../c", "http://example.com/a/c"),
        ("http://example.com/../..", "http://example.com/"),
        ("http://example.com//a", "http://example.com//a"),
        ("http://example.com/a b?c=ü", "http://example.com/a%20b?c=%C3%BC"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[::1]:80/x", "http://[::1]/x"),
        (" http://example.com/\n", "http://example.com/"),
    ],
)
def test_an_address_has_one_spelling(written: str, meant: str) -> None:
    assert normalised(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        "/a",
        "ftp://x/",
        "javascript:1",
        "http:///a",
        "http://u@x/",
        "http://x:y/",
        "http://a..b/",
        "http://" + "x" * 3000,
    ],
)
def test_what_is_no_web_address_has_none(written: str) -> None:
    assert normalised(written) is None


@given(st.text(max_size=60))
def test_normalising_is_settled_at_once_and_never_raises(tail: str) -> None:
    once = normalised("http://example.com/" + tail)
    if once is not None:
        assert normalised(once) == once
        assert origin_of(once) == "http://example.com"


@given(st.lists(st.text(max_size=40), max_size=20))
def test_links_stay_within_the_origin_and_are_distinct(hrefs: list[str]) -> None:
    paths = paths_within("http://example.com", base="http://example.com/a/b", hrefs=hrefs, at_most=10)
    assert len(set(paths)) == len(paths) <= 10
    assert all(path.startswith("/") and "#" not in path and "\x00" not in path for path in paths)


@pytest.mark.parametrize(
    ("start", "other", "same"),
    [
        ("http://example.com", "https://example.com", True),
        ("https://example.com", "https://www.example.com", True),
        ("https://example.com", "http://example.com", False),
        ("https://example.com", "https://example.org", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:9000", False),
    ],
)
def test_a_site_may_move_its_visitors_to_https_or_www_only(start: str, other: str, same: bool) -> None:
    assert same_site(start, other) is same

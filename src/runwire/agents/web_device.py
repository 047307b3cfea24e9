"""The device of an exploration: an HTTP client that opens one address at a time and tells what it saw."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

import aiohttp
from selectolax.lexbor import LexborHTMLParser

from runwire.agents.page_graph import Outcome, Sighting
from runwire.agents.web_address import normalised, origin_of, paths_within
from runwire.agents.web_guard import AddressRefused, CheckedResolver, approved_socket
from runwire.errors import NodeFailed

USER_AGENT: Final = "runwire-explore"
MAX_REDIRECTS: Final = 5
MAX_LINKS: Final = 300
"""Links read from a page at most."""
MAX_TITLE_CHARS: Final = 200

HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
# The encodings of the web that Python spells alike. It knows more, some slow, some that make lone surrogates.
_CHARSET: Final = re.compile(
    r"(us-ascii|iso-8859-([1-9]|1[013-6])|windows-125[0-8]|koi8-[ru]|euc-(jp|kr)|shift_jis|gb18030|gbk|big5)$",
    re.IGNORECASE,
)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. `body` holds at most the bytes asked for; `cut` says there were more."""

    status: int
    media_type: str
    charset: str
    location: str | None
    body: bytes
    cut: bool

    @property
    def text(self) -> str:
        return self.body.decode(self.charset if _CHARSET.match(self.charset) else "utf-8", errors="replace")


async def get(url: str, *, max_bytes: int, timeout_s: float, media_types: frozenset[str] | None = None) -> Answer:
    """The answer to one GET. Redirects are told, not followed; a body is read for 2xx of `media_types`.

    Every request has a session of its own: nothing is shared that a cancelled, crashed or taken-over run
    could leave open, and no cookie outlives a step. The price is a connection per page; pages are few.
    Raises NodeFailed `request_timeout` or `connection_lost` when no whole answer came, and `address_refused` for an
    address that may not be connected to.
    """
    connector = aiohttp.TCPConnector(
        resolver=CheckedResolver(), socket_factory=approved_socket, use_dns_cache=False, force_close=True
    )
    jar = aiohttp.DummyCookieJar()
    headers = {"User-Agent": USER_AGENT, "Accept": "text/html, */*;q=0.5"}
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(connector=connector, cookie_jar=jar, headers=headers) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            body = bytearray()
            wanted = media_types is None or response.content_type in media_types
            if 200 <= response.status < 300 and wanted:
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > max_bytes:
                        break
            location = response.headers.get("Location")
            return Answer(
                status=response.status,
                media_type=response.content_type,
                charset=response.charset or "",
                location=None if location is None else _resolved(url, location),
                body=bytes(body[:max_bytes]),
                cut=len(body) > max_bytes,
            )
    except TimeoutError as cause:
        raise NodeFailed("request_timeout") from cause
    except (aiohttp.ClientError, OSError) as cause:
        if _refused(cause):
            raise NodeFailed("address_refused", retry=False) from cause
        raise NodeFailed("connection_lost") from cause


async def open_page(url: str, *, max_bytes: int, timeout_s: float) -> Sighting:
    """The page at `url`: status, title and same-origin links. The body is read here and goes no further."""
    answer = await get(url, max_bytes=max_bytes, timeout_s=timeout_s, media_types=HTML)
    seen = Sighting(answer.status, html=answer.media_type in HTML, cut=answer.cut, location=answer.location)
    if answer.body:
        tree = LexborHTMLParser(answer.text)
        title, base = tree.css_first("head title"), tree.css_first("base[href]")
        if title is not None:
            seen.title = " ".join(title.text().replace("\0", "").split())[:MAX_TITLE_CHARS]
        seen.links = paths_within(
            origin_of(url),
            base=url if base is None else _resolved(url, base.attributes["href"] or "") or url,
            hrefs=(node.attributes["href"] or "" for node in tree.css("a[href], area[href]")),
            at_most=MAX_LINKS,
        )
    return seen


def judge(seen: Sighting, *, origin: str, hops: int) -> None:
    """Sets what `seen` amounts to when exploring `origin` and led there by `hops` redirects in a row."""
    if seen.status in _REDIRECTS and seen.location is not None and hops < MAX_REDIRECTS:
        if origin_of(seen.location) == origin:
            seen.outcome, seen.links = Outcome.REDIRECT, [seen.location[len(origin) :]]
        else:
            seen.outcome = Outcome.OFF_SITE
    elif not 200 <= seen.status < 300:
        seen.outcome = Outcome.BROKEN
    elif not seen.html:
        seen.outcome = Outcome.FILE
    else:
        seen.outcome = Outcome.CUT if seen.cut else Outcome.PAGE


def _refused(error: BaseException | None) -> bool:
    """Whether an address was refused: libraries wrap that, and may group it with other failures to connect."""
    while error is not None:
        if isinstance(error, AddressRefused):
            return True
        if isinstance(error, BaseExceptionGroup) and any(_refused(inner) for inner in error.exceptions):
            return True
        if isinstance(error, aiohttp.ClientConnectorError) and _refused(error.os_error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _resolved(base: str, reference: str) -> str | None:
    try:
        return normalised(urljoin(base, reference.strip()))
    except ValueError:
        return None

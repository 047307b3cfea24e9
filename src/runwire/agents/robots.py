"""A site's rules for robots (RFC 9309), in a form small enough for a checkpoint."""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache
from typing import Final

from protego import Protego

from runwire.agents.web_device import MAX_REDIRECTS, USER_AGENT, get

MAX_CRAWL_DELAY_S: Final = 10.0
"""A site that asks for more between two requests gets this much."""

DENY_ALL: Final = "User-agent: *\nDisallow: /"

_MAX_BYTES: Final = 500 * 1024  # section 2.5: a crawler must read at least this much


async def read_robots(origin: str, *, timeout_s: float) -> str:
    """The packed rules of `origin`: none for 4xx (section 2.3.1.3), all is denied for 5xx (2.3.1.4).

    Follows up to five redirects, to other hosts too (2.3.1.2). Raises NodeFailed as `get` does.
    """
    url = f"{origin}/robots.txt"
    for _ in range(MAX_REDIRECTS + 1):
        answer = await get(url, max_bytes=_MAX_BYTES, timeout_s=timeout_s)
        if 300 <= answer.status < 400 and answer.location is not None:
            url = answer.location
            continue
        if answer.status >= 500:
            return pack(DENY_ALL)
        return pack(answer.text if answer.status < 300 else "")
    return ""


def pack(text: str) -> str:
    """Rules as a short string; `allowed` and `crawl_delay_s` read it."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode() if text else ""


def allowed(packed: str, url: str) -> bool:
    return not packed or _rules(packed).can_fetch(url, USER_AGENT)


def crawl_delay_s(packed: str) -> float:
    """Seconds the site asks for between two requests, within reason."""
    delay = _rules(packed).crawl_delay(USER_AGENT) if packed else None
    return min(max(delay or 0.0, 0.0), MAX_CRAWL_DELAY_S)


@lru_cache(maxsize=32)
def _rules(packed: str) -> Protego:
    return Protego.parse(zlib.decompress(base64.b64decode(packed)).decode())

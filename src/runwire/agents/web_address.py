"""Web addresses in one spelling each, so that a page has one name however it is linked. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

MAX_ADDRESS_CHARS: Final = 2048

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Reserved and unreserved characters of RFC 3986 (section 2) and `%` stay; all else is percent-encoded.
_AS_IS: Final = "!$%&'()*+,-./:;=?@_~[]"
_HOST: Final = re.compile(r"[0-9a-z._-]+|[0-9a-f:.]+")


def normalised(url: str) -> str | None:
    """The absolute http(s) URL in its one spelling (RFC 3986, section 6.2): lower-case scheme and host, no
    default port, no dot segments, no fragment. None when it is anything else, has credentials or is too long.
    """
    if len(url) > MAX_ADDRESS_CHARS:
        return None
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        host = parts.hostname or ""
        if ":" not in host:  # not an IPv6 literal
            host = host.encode("idna").decode("ascii").lower()
    except ValueError:  # a port that is no number, brackets that do not close, a label IDNA refuses
        return None
    if parts.scheme not in _DEFAULT_PORTS or not host or "@" in parts.netloc or not _HOST.fullmatch(host):
        return None
    if ":" in host:
        host = f"[{host}]"
    origin = f"{parts.scheme}://{host}"
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        origin += f":{port}"
    path = parts.path or "/"
    if "/." in path:  # urljoin takes dot segments out, but would read a leading `//` as a host
        path = urljoin(origin + "/", "/" + path.lstrip("/"))[len(origin) :]
    query = f"?{quote(parts.query, safe=_AS_IS)}" if parts.query else ""
    address = origin + quote(path, safe=_AS_IS) + query
    return address if len(address) <= MAX_ADDRESS_CHARS else None


def origin_of(url: str) -> str:
    """`scheme://host[:port]` (RFC 6454) of a normalised URL."""
    return url[: url.index("/", url.index("//") + 2)]


def same_site(origin: str, other: str) -> bool:
    """Whether `other` is where a site may send all its visitors: to https, to or from its `www.` name."""

    def bare(name: str) -> tuple[str, bool]:
        scheme, _, host = name.partition("://")
        return host.removeprefix("www."), scheme == "https"

    (host, secure), (other_host, other_secure) = bare(origin), bare(other)
    return host == other_host and other_secure >= secure


def paths_within(origin: str, *, base: str, hrefs: Iterable[str], at_most: int) -> list[str]:
    """The first `at_most` distinct paths (with query) of `origin` that `hrefs` relative to `base` lead to."""
    paths: dict[str, None] = {}
    for href in hrefs:
        try:
            address = normalised(urljoin(base, href.strip()))
        except ValueError:  # urljoin refuses what urlsplit refuses
            continue
        if address is not None and origin_of(address) == origin:
            paths.setdefault(address[len(origin) :])
            if len(paths) == at_most:
                break
    return list(paths)

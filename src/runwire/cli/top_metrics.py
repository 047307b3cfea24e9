"""Listeners of processes, as `runwire top` scrapes them: rates and lags between two looks."""

from __future__ import annotations

import asyncio
import math
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from runwire.clock import monotonic
from runwire.errors import ConfigurationError

SCRAPE_S: Final = 3.0
BODY_MAX: Final = 8 * 1024 * 1024
_COUNTERS: Final = {
    "runwire_events_appended_total": "appended",
    "runwire_events_published_total": "published",
    "runwire_events_delivered_total": "delivered",
}
STAGES: Final = tuple(_COUNTERS.values())
_LAG: Final = "runwire_publish_lag_seconds_bucket"
_STREAMS: Final = "runwire_sse_connections"


@dataclass(frozen=True, slots=True)
class Scrape:
    """The numbers of one scrape: sums over labels, and the buckets of the publish lag by their upper edge."""

    at: float
    sums: Mapping[str, float]
    lag: Mapping[float, float]
    streams: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener at a look. Rates are per second since the look before, and none at the first. `problem`: why it could
    not be scraped.
    """

    url: str
    streams: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    lag_p95_s: float | None = None
    problem: str | None = None


class Listeners:
    """`look` scrapes them all at once."""

    def __init__(self, urls: Sequence[str]) -> None:
        """Raises ConfigurationError for URLs that are not http or https."""
        wrong = [url for url in urls if not url.startswith(("http://", "https://"))]
        if wrong:
            raise ConfigurationError(tuple(f"--metrics: {url} is no http or https URL" for url in wrong))
        self._urls = tuple(f"{url.rstrip('/').removesuffix('/metrics')}/metrics" for url in urls)
        self._before: dict[str, Scrape] = {}

    async def look(self) -> tuple[Listener, ...]:
        return tuple(await asyncio.gather(*(self._look_at(url) for url in self._urls)))

    async def _look_at(self, url: str) -> Listener:
        try:
            now = scraped(await asyncio.to_thread(_body, url))
        except (OSError, ValueError) as error:
            self._before.pop(url, None)
            return Listener(url, problem=_reason(error))
        before = self._before.get(url)
        self._before[url] = now
        if before is None:
            return Listener(url, now.streams, lag_p95_s=p95(now.lag))
        seconds = max(now.at - before.at, 0.001)
        rates = {name: max(total - before.sums.get(name, 0.0), 0.0) / seconds for name, total in now.sums.items()}
        lately = {edge: count - before.lag.get(edge, 0.0) for edge, count in now.lag.items()}
        return Listener(url, now.streams, rates, p95(lately))


def scraped(text: str) -> Scrape:
    """The numbers that `top` shows, out of the text format. Raises ValueError for another text."""
    from prometheus_client.parser import text_string_to_metric_families

    sums = dict.fromkeys(_COUNTERS.values(), 0.0)
    lag: dict[float, float] = {}
    streams = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _COUNTERS:
                sums[_COUNTERS[sample.name]] += sample.value
            elif sample.name == _LAG:
                edge = float(sample.labels["le"])
                lag[edge] = lag.get(edge, 0.0) + sample.value
            elif sample.name == _STREAMS:
                streams = int(sample.value)
    return Scrape(monotonic(), sums, lag, streams)


def p95(cumulative: Mapping[float, float]) -> float | None:
    """The upper edge of the bucket that has it, infinite past the last edge; None where nothing was observed."""
    total = cumulative.get(math.inf, 0.0)
    if total <= 0:
        return None
    return min(edge for edge, count in cumulative.items() if count >= 0.95 * total)


def _body(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": "text/plain"})  # noqa: S310  # http and https only
    with urllib.request.urlopen(request, timeout=SCRAPE_S) as answer:  # noqa: S310  # as above
        body: bytes = answer.read(BODY_MAX + 1)
    if len(body) > BODY_MAX:
        raise ValueError("the answer is too large")
    return body.decode("utf-8")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(inner, "strerror", None) or " ".join(str(inner).split()) or type(inner).__name__

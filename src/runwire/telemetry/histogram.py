"""A classic Prometheus histogram that is cheap enough to be observed once per event, and to be scraped.

prometheus_client's own takes 0.8 us an observation, mostly for locks and per-bucket values, and several ms to
render some hundred series; this one takes a bisect and two list writes, and its lines are ready but for the
numbers. The price: one thread (the event loop's) observes; any thread may scrape.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

# Below this many values a bisect for each is faster than sorting them and bisecting the edges.
_SORTED_FROM = 10


class Histogram:
    """Observations of one series, in base units. Negative ones (a clock was set back) count as 0."""

    __slots__ = ("_counts", "_edges", "_exemplars", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = list(edges)
        self._counts = [0] * (len(edges) + 1)
        self._exemplars: list[tuple[str, float, float] | None] = [None] * (len(edges) + 1)
        self._sum = 0.0

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Counts `value`; `trace_id` (32 hex digits), given for sampled runs only, becomes an exemplar."""
        if value < 0.0:  # noqa: PLR1730  # max() would double the cost of an observation
            value = 0.0
        index = bisect_left(self._edges, value)
        self._counts[index] += 1
        self._sum += value
        if trace_id is not None:
            self._exemplars[index] = (trace_id, value, time.time())

    def observe_many(self, values: Iterable[float], *, times: int = 1) -> None:
        """Counts each of `values`, `times` over, without exemplars: observe those of sampled runs one by one."""
        batch = list(values)
        if len(batch) < _SORTED_FROM and times == 1:
            for value in batch:
                self.observe(value)
            return
        if not batch:
            return
        batch.sort()
        if batch[0] < 0.0:
            batch = [max(value, 0.0) for value in batch]
        below, last = 0, len(batch)
        # Values of one batch lie close together, so only the buckets from the least to the greatest value are walked.
        for index in range(bisect_left(self._edges, batch[0]), len(self._edges)):
            upto = bisect_right(batch, self._edges[index], below)
            self._counts[index] += (upto - below) * times
            below = upto
            if below == last:
                break
        self._counts[-1] += (last - below) * times
        self._sum += sum(batch) * times

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum(self) -> float:
        return self._sum

    def snapshot(self) -> tuple[list[int], float, list[tuple[str, float, float] | None]]:
        """Counts by bucket (not cumulative; the last is +Inf), the sum, and each bucket's last exemplar.

        An exemplar is (trace id, value, epoch seconds).
        """
        return self._counts.copy(), self._sum, self._exemplars.copy()


class HistogramFamily:
    """All series of one histogram. Every label combination in `series` is exported from the start."""

    def __init__(
        self,
        name: str,
        documentation: str,
        *,
        edges: Sequence[float],
        labels: Sequence[str] = (),
        series: Iterable[tuple[str, ...]] = ((),),
    ) -> None:
        self.name = name
        self.series: Mapping[tuple[str, ...], Histogram] = {values: Histogram(edges) for values in series}
        self._header = f"# HELP {name} {documentation}\n# TYPE {name} histogram\n"
        les = [*(str(edge) for edge in edges), "+Inf"]
        self._lines: list[tuple[Histogram, list[str], str, str]] = []
        for values, histogram in self.series.items():
            pairs = [f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True)]
            braces = "{" + ",".join(pairs) + "}" if pairs else ""
            buckets = [f"{name}_bucket{{" + ",".join([*pairs, f'le="{le}"']) + "} " for le in les]
            self._lines.append((histogram, buckets, f"{name}_count{braces} ", f"{name}_sum{braces} "))

    def render(self, *, exemplars: bool) -> str:
        """The family in the lines that the Prometheus text format 0.0.4 and OpenMetrics 1.0 share.

        Only OpenMetrics knows `exemplars`.
        """
        return "".join(self._rendered(exemplars=exemplars))

    def _rendered(self, *, exemplars: bool) -> Iterator[str]:
        yield self._header
        for histogram, bucket_lines, count_line, sum_line in self._lines:
            counts, total, last = histogram.snapshot()
            running = 0
            for line, count, exemplar in zip(bucket_lines, counts, last, strict=True):
                running += count
                if exemplar is None or not exemplars:
                    yield f"{line}{running}\n"
                else:
                    trace_id, value, at = exemplar
                    yield f'{line}{running} # {{trace_id="{trace_id}"}} {value!r} {at:.3f}\n'
            yield f"{count_line}{running}\n{sum_line}{total!r}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

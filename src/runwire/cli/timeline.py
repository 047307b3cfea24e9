"""A run's events as a person reads them: a line for each node, with its time, its duration and its traces."""

from __future__ import annotations

from rich.markup import escape

from runwire.cli.output import duration
from runwire.model.event import Event, EventType

_NAME_WIDTH = 18


class Timeline:
    """Takes events in order and gives lines in rich markup. `node` is the one at work, None between nodes."""

    def __init__(self, *, started_ms: int | None = None) -> None:
        self.node: str | None = None
        self.events = 0
        self._started_ms = started_ms
        self._node_ms = 0
        self._traces: list[str] = []

    def take(self, event: Event) -> list[str]:
        """The lines this event completes."""
        self.events += 1
        if self._started_ms is None:
            self._started_ms = event.ts
        match event.type:
            case EventType.RUN_STARTED:
                return [self._line(event.ts, "[bold]run started[/]")]
            case EventType.NODE_STARTED:
                lines = self._unfinished()
                self.node, self._node_ms = event.name, event.ts
                return lines
            case EventType.DEBUG_TRACE:
                if self.node is None:
                    return [self._line(event.ts, _trace(event.fn or ""))]
                self._traces.append(event.fn or "")
                return []
            case EventType.NODE_FINISHED:
                name, began = event.name or "", self._node_ms if self.node == event.name else event.ts
                took = duration(event.ts - began)
                line = self._line(began, f"[green]{escape(name):<{_NAME_WIDTH}}[/] {took:>9}{self._said()}")
                self.node = None
                return [line]
            case EventType.RUN_FINISHED:
                took = duration(event.ts - self._started_ms)
                return [*self._unfinished(), self._line(event.ts, f"[bold]run ended[/] after {took}")]

    def _unfinished(self) -> list[str]:
        """The line of a node that was entered and never left: it failed, or its worker died."""
        if self.node is None:
            return []
        line = self._line(self._node_ms, f"[red]{escape(self.node):<{_NAME_WIDTH}}[/] {'unfinished':>9}{self._said()}")
        self.node = None
        return [line]

    def _said(self) -> str:
        traces, self._traces = self._traces, []
        return "".join(f"  {_trace(fn)}" for fn in traces)

    def _line(self, at_ms: int, text: str) -> str:
        elapsed_s = (at_ms - (at_ms if self._started_ms is None else self._started_ms)) / 1000
        return f"[dim]{elapsed_s:8.3f} s[/]  {text}"


def _trace(fn: str) -> str:
    return f"[bold red]{escape(fn)}[/]" if fn.startswith("error:") else f"[dim cyan]{escape(fn)}[/]"

"""Dashboards for Grafana: five, from what an on-call looks at first to what explains it."""

from __future__ import annotations

from runwire.ops.dashboards import infrastructure, outbox, overview, runs, sse
from runwire.ops.dashboards.board import MARK, Board
from runwire.ops.thresholds import Thresholds

__all__ = ["MARK", "Board", "boards", "rendered"]


def boards(thresholds: Thresholds) -> tuple[Board, ...]:
    """In the order in which they lead from the symptom to the cause."""
    return tuple(
        make(thresholds) for make in (overview.board, outbox.board, runs.board, sse.board, infrastructure.board)
    )


def rendered(thresholds: Thresholds) -> dict[str, str]:
    """Grafana's JSON by the dashboard's name."""
    return {board.name: board.json(runbook=thresholds.links.runbook) for board in boards(thresholds)}

"""SSE: what clients get, when, and why they leave."""

from __future__ import annotations

from runwire.ops.dashboards.board import Board, Row
from runwire.ops.dashboards.content import part_row
from runwire.ops.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    INSTANCE,
    LIGHT,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Limit,
    Query,
    coloured,
    lines,
    number,
    percentiles,
    quantile,
    rate,
)
from runwire.ops.thresholds import Thresholds

_REASONS = {"terminal": GREEN, "client": BLUE, "slow": ORANGE, "drain": GREY, "rotate": LIGHT, "error": RED}


def board(thresholds: Thresholds) -> Board:
    runbook = thresholds.links.runbook
    churn = Limit.of(thresholds, "sse_churn", runbook=f"{runbook}#sse-churn")
    flapping = Limit.of(thresholds, "sse_flapping", runbook=f"{runbook}#sse-flapping")
    heartbeat = Limit.of(thresholds, "sse_heartbeat", runbook=f"{runbook}#sse-heartbeat")
    objective = thresholds.slos.objectives["deliver"].within_s or 1.0
    lag = Limit(((objective, ORANGE),), f"{runbook}#deliveryslofastburn")
    stats = (
        number(
            "Open streams",
            "Clients that watch a run now.",
            f"sum(runwire_sse_connections{{{INSTANCE}}})",
            unit="short",
            base=BLUE,
        ),
        number(
            "Delivery lag p95",
            "From an event's commit to the socket write, live events only.",
            quantile(0.95, "runwire_delivery_lag_seconds"),
            unit="s",
            limit=lag,
        ),
        number(
            "Oldest write",
            "Age of the oldest last write among open streams. A heartbeat goes out every 15 s.",
            f"max(runwire_sse_write_age_seconds_max{{{INSTANCE}}})",
            unit="s",
            limit=heartbeat,
        ),
        number(
            "Reconnects: run",
            "In the last minute, of the run with most.",
            f"max(runwire_sse_run_reconnects_1m_max{{{INSTANCE}}})",
            unit="none",
            limit=churn,
        ),
        number(
            "Reconnects: client",
            "In the last minute, of the client with most.",
            f"max(runwire_sse_client_reconnects_1m_max{{{INSTANCE}}})",
            unit="none",
            limit=flapping,
        ),
        number(
            "Slow clients closed",
            "Within the time shown. They resume where they were.",
            f'sum(increase(runwire_sse_disconnects_total{{{INSTANCE}, reason="slow"}}[$__range]))',
            unit="short",
            base=BLUE,
            decimals=0,
        ),
    )
    return Board(
        "sse",
        "SSE",
        "Deliveries to clients, their delays, and the reasons for disconnects.",
        (
            Row(stats, height=3),
            Row(
                (
                    lines(
                        "Delivery lag",
                        "From an event's commit to the socket write, live events only. The line is the objective's.",
                        percentiles("runwire_delivery_lag_seconds"),
                        unit="s",
                        limit=lag,
                        log=True,
                    ),
                    coloured(
                        lines(
                            "Events delivered",
                            "Live ones as they happen, backfill to clients that (re)connect.",
                            [Query(rate("runwire_events_delivered_total", by="path"), "{{path}}")],
                            unit="eps",
                            stacked=True,
                        ),
                        {"live": GREEN, "backfill": BLUE},
                    ),
                ),
                title="Delivery",
            ),
            part_row(thresholds),
            Row(
                (
                    lines(
                        "Open streams by instance",
                        "A deploy moves them; an instance that keeps none while others do is not reached.",
                        [Query(f"sum by (instance) (runwire_sse_connections{{{INSTANCE}}})", "{{instance}}")],
                        unit="short",
                        many=True,
                        stacked=True,
                    ),
                    coloured(
                        lines(
                            "Streams opened",
                            "Resume came with a cursor: it is a reconnect.",
                            [Query(rate("runwire_sse_connects_total", by="kind"), "{{kind}}")],
                            unit="suffix:/s",
                            stacked=True,
                        ),
                        {"new": BLUE, "resume": ORANGE},
                    ),
                    coloured(
                        lines(
                            "Streams closed by reason",
                            "Terminal, drain and rotate are normal. Client: it went away, or a proxy cut it.",
                            [Query(rate("runwire_sse_disconnects_total", by="reason"), "{{reason}}")],
                            unit="suffix:/s",
                            stacked=True,
                        ),
                        _REASONS,
                    ),
                ),
                title="Connections",
            ),
            Row(
                (
                    lines(
                        "Open streams by kind",
                        "Of one run, of listed runs, of a session, of labels.",
                        [Query(f"sum by (kind) (runwire_streams_open{{{INSTANCE}}})", "{{kind}}")],
                        unit="short",
                        stacked=True,
                        decimals=0,
                    ),
                    lines(
                        "Checkpoints stored",
                        "Positions of streams of many runs, which their ids name.",
                        [Query(rate("runwire_stream_checkpoints_total"), "checkpoints")],
                        unit="suffix:/s",
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Reconnects of one run",
                        "In a minute, of the run with most, with the limit of its alert.",
                        [Query(f"max by (instance) (runwire_sse_run_reconnects_1m_max{{{INSTANCE}}})", "{{instance}}")],
                        unit="short",
                        many=True,
                        limit=churn,
                        decimals=0,
                    ),
                    lines(
                        "Reconnects of one client",
                        "In a minute, of the client with most, with the limit of its alert.",
                        [
                            Query(
                                f"max by (instance) (runwire_sse_client_reconnects_1m_max{{{INSTANCE}}})",
                                "{{instance}}",
                            )
                        ],
                        unit="short",
                        many=True,
                        limit=flapping,
                        decimals=0,
                    ),
                    lines(
                        "Oldest write to an open stream",
                        "Saws between 0 and the heartbeat, 15 s unless set. Above the line heartbeats do not go out.",
                        [
                            Query(
                                f"max by (instance) (runwire_sse_write_age_seconds_max{{{INSTANCE}}})", "{{instance}}"
                            ),
                            Query(f"max(runwire_sse_heartbeat_seconds{{{INSTANCE}}})", "heartbeat", GREY),
                        ],
                        unit="s",
                        many=True,
                        limit=heartbeat,
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Events per backfill",
                        "The stored part of a stream.",
                        [
                            Query(quantile(0.5, "runwire_sse_backfill_events"), "p50", LIGHT),
                            Query(quantile(0.95, "runwire_sse_backfill_events"), "p95", BLUE),
                        ],
                        unit="short",
                    ),
                    lines(
                        "Backfill duration",
                        "From attaching a client to the end of its stored part.",
                        percentiles("runwire_sse_backfill_duration_seconds"),
                        unit="s",
                        log=True,
                    ),
                    lines(
                        "Repairs",
                        "Errors of the bus that no client saw. Gaps: messages were lost and read from "
                        "PostgreSQL. Duplicates: a publisher was restarted.",
                        [
                            Query(rate("runwire_sse_gaps_repaired_total"), "gaps repaired", YELLOW),
                            Query(rate("runwire_sse_duplicates_dropped_total"), "duplicates dropped", PURPLE),
                        ],
                        unit="suffix:/s",
                        rare=True,
                    ),
                ),
                title="Backfill and repairs",
            ),
        ),
    )

"""Infrastructure: the processes themselves, their database connections, and whether telemetry can be trusted."""

from __future__ import annotations

from runwire.ops.dashboards.board import Board, Row
from runwire.ops.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    INSTANCE,
    JOB,
    RED,
    Limit,
    Query,
    lines,
    mean,
    means,
    number,
    percentiles,
    quantile,
    rate,
)
from runwire.ops.thresholds import Thresholds


def board(thresholds: Thresholds) -> Board:
    runbook = thresholds.links.runbook
    stale = Limit.of(thresholds, "observer_stale", runbook=f"{runbook}#observerstale")
    dropped = Limit.above(thresholds, "telemetry_dropped", runbook=f"{runbook}#telemetrydropped")
    behind = Limit.of(thresholds, "retention", runbook=f"{runbook}#retentionbehind")
    unwell = Limit.of(thresholds, "role_unwell", runbook=f"{runbook}#roleunwell")
    used = Limit.of(thresholds, "database_used", runbook=f"{runbook}#limits-of-postgresql")
    skew = Limit.of(thresholds, "clock_skew", runbook=f"{runbook}#clockskew")
    partitions = Limit.above(thresholds, "partitions_missing", runbook=f"{runbook}#partitionsshort")
    observer_age = f"time() - max by (job) (runwire_observer_last_success_timestamp_seconds{{{JOB}}})"
    stats = (
        number(
            "Processes up",
            "Processes that answer their scrapes.",
            f"sum(up{{{INSTANCE}}})",
            unit="none",
            base=RED,
            limit=Limit.any(GREEN, runbook=f"{runbook}#targetdown"),
        ),
        number(
            "Observer age",
            "Time since the observer looked at everything. It looks every 5 s.",
            f"max({observer_age})",
            unit="s",
            limit=stale,
        ),
        number(
            "Event loop lag p99",
            "How late the loop woke a timer. High: something blocks it, or CPU is short.",
            quantile(0.99, "runwire_event_loop_lag_seconds"),
            unit="s",
            limit=Limit.of(thresholds, "event_loop_lag", runbook=f"{runbook}#failure-patterns"),
        ),
        number(
            "Pool wait p99",
            "Wait for a database connection. High: the pool is too small, or PostgreSQL is slow.",
            quantile(0.99, "runwire_db_pool_wait_seconds"),
            unit="s",
            limit=Limit.of(thresholds, "pool_wait", runbook=f"{runbook}#schema-health"),
        ),
        number(
            "CPU",
            "Cores used by all chosen processes.",
            rate("process_cpu_seconds_total"),
            unit="suffix: cores",
            base=BLUE,
            decimals=2,
        ),
        number(
            "Telemetry dropped",
            "Spans and log lines given up within the time shown. Nothing is lost but sight.",
            f"sum(increase(runwire_telemetry_dropped_total{{{INSTANCE}}}[$__range]))",
            unit="short",
            limit=dropped,
            decimals=0,
        ),
    )
    return Board(
        "infrastructure",
        "Infrastructure",
        "The processes, their database connections, and whether telemetry can be trusted.",
        (
            Row(stats, height=3),
            Row(
                (
                    lines(
                        "CPU by instance",
                        "One process uses about one core at most.",
                        [Query(rate("process_cpu_seconds_total", by="instance"), "{{instance}}")],
                        unit="suffix: cores",
                        many=True,
                        decimals=2,
                    ),
                    lines(
                        "Memory by instance",
                        "Resident set size.",
                        [Query(f"sum by (instance) (process_resident_memory_bytes{{{INSTANCE}}})", "{{instance}}")],
                        unit="bytes",
                        many=True,
                    ),
                    lines(
                        "Open files by instance",
                        "File descriptors; each stream takes one.",
                        [Query(f"sum by (instance) (process_open_fds{{{INSTANCE}}})", "{{instance}}")],
                        unit="short",
                        many=True,
                        decimals=0,
                    ),
                ),
                title="Processes",
                height=9,
            ),
            Row(
                (
                    lines(
                        "Event loop lag",
                        "How late the event loop woke a timer. Percentiles tell nothing below 5 ms; the mean does.",
                        [mean("runwire_event_loop_lag_seconds"), *percentiles("runwire_event_loop_lag_seconds")],
                        unit="s",
                        log=True,
                    ),
                    lines(
                        "Pool wait",
                        "Wait for a connection from the pool. Percentiles tell nothing below 5 ms; the mean does.",
                        [mean("runwire_db_pool_wait_seconds"), *percentiles("runwire_db_pool_wait_seconds")],
                        unit="s",
                        log=True,
                    ),
                    lines(
                        "Connections in use",
                        "Database connections taken from the pool.",
                        [Query(f"sum by (instance) (runwire_db_pool_in_use{{{INSTANCE}}})", "{{instance}}")],
                        unit="short",
                        many=True,
                        decimals=0,
                    ),
                ),
                title="Event loop and database",
                height=9,
            ),
            Row(
                (
                    lines(
                        "Limits of PostgreSQL",
                        "Share of each limit that is used up, with the limit of its alert.",
                        [Query(f"max by (limit) (runwire_database_used_ratio{{{JOB}}})", "{{limit}}")],
                        unit="percentunit",
                        limit=used,
                    ),
                    lines(
                        "Partitions missing",
                        "Days ahead that should have a partition of the log, and have none.",
                        [Query(f"max by (job) (runwire_event_partitions_missing{{{JOB}}})", "{{job}}")],
                        unit="short",
                        limit=partitions,
                        decimals=0,
                        rare=True,
                    ),
                    lines(
                        "Deaf listeners",
                        "Connections that were open and heard no notification. Streams and workers then look by "
                        "themselves, seconds later.",
                        [Query(rate("runwire_listeners_deaf_total", by="instance"), "{{instance}}")],
                        unit="suffix:/s",
                        many=True,
                        rare=True,
                    ),
                    lines(
                        "Clocks",
                        "How far the clock of a process's machine is from PostgreSQL's, with the limit of its alert.",
                        [Query(f"max by (instance) (abs(runwire_clock_offset_seconds{{{INSTANCE}}}))", "{{instance}}")],
                        unit="s",
                        limit=skew,
                        many=True,
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Oldest transaction",
                        "Time since the oldest transaction of the database began, with the limit of its alert.",
                        [Query(f"max by (job) (runwire_database_oldest_transaction_seconds{{{JOB}}})", "{{job}}")],
                        unit="s",
                        limit=Limit.of(thresholds, "oldest_transaction", runbook=f"{runbook}#a-database-at-risk"),
                    ),
                    lines(
                        "Lag of standbys",
                        "Of the standby that is furthest behind, with the limit of its alert.",
                        [Query(f"max by (job) (runwire_database_standby_lag_seconds{{{JOB}}})", "{{job}}")],
                        unit="s",
                        limit=Limit.of(thresholds, "standby_lag", runbook=f"{runbook}#a-database-at-risk"),
                    ),
                    lines(
                        "Size, and WAL held back",
                        "Of the database on disk, and of the WAL that the slot that is furthest behind keeps, with the "
                        "limit of its alert.",
                        [
                            Query(f"max by (job) (runwire_database_size_bytes{{{JOB}}})", "size"),
                            Query(f"max by (job) (runwire_database_slot_retained_bytes{{{JOB}}})", "held back"),
                        ],
                        unit="bytes",
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Connections of clients",
                        "Open HTTP connections, and the descriptors that they take and may take. A stream takes two.",
                        [
                            Query(f"sum(runwire_http_connections{{{INSTANCE}}})", "open"),
                            Query(f"sum(runwire_http_descriptors{{{INSTANCE}}})", "descriptors"),
                            Query(f"sum(runwire_http_descriptors_max{{{INSTANCE}}})", "limit"),
                        ],
                        unit="short",
                        log=True,
                        decimals=0,
                    ),
                    lines(
                        "Connections refused and cut",
                        "Refused: answered with 503, because all descriptors were busy. The others ended at a "
                        "deadline, or to make room.",
                        [
                            Query(rate("runwire_http_connections_refused_total"), "refused"),
                            Query(rate("runwire_http_connections_cut_total", by="reason"), "{{reason}}"),
                        ],
                        unit="suffix:/s",
                        rare=True,
                    ),
                    lines(
                        "Duties in trouble",
                        "Duties that processes cannot do at the moment, by role; /readyz says why.",
                        [Query(f"sum by (role) (runwire_role_unwell{{{INSTANCE}}})", "{{role}}")],
                        unit="short",
                        limit=unwell,
                        decimals=0,
                        rare=True,
                    ),
                ),
                title="Clients and duties",
                height=9,
            ),
            Row(
                (
                    lines(
                        "Requests by route",
                        "By the operationId of openapi.json. A stream counts when it begins.",
                        [Query(rate("runwire_http_requests_total", by="route"), "{{route}}")],
                        unit="suffix:/s",
                        many=True,
                    ),
                    lines(
                        "Answers of 500 and above",
                        "Requests that the service failed, or could not serve: by route.",
                        [
                            Query(
                                rate("runwire_http_requests_total", by="route", where='status="5xx"'),
                                "{{route}}",
                            )
                        ],
                        unit="suffix:/s",
                        many=True,
                        rare=True,
                    ),
                    lines(
                        "Duration of requests",
                        "Mean by route, from the head of the request to the head of its answer.",
                        [Query(means("runwire_http_request_duration_seconds", by="route"), "{{route}}")],
                        unit="s",
                        many=True,
                    ),
                    lines(
                        "Ready",
                        "1: the process says by /readyz that it can take requests, as far as its duties go.",
                        [Query(f"min by (instance) (runwire_ready{{{INSTANCE}}})", "{{instance}}")],
                        unit="short",
                        many=True,
                        decimals=0,
                    ),
                ),
                title="Requests",
                height=9,
            ),
            Row(
                (
                    lines(
                        "Requests refused for a limit",
                        "By the code of the problem. Runs: no start is accepted; clients try again later.",
                        [Query(rate("runwire_requests_refused_total", by="code"), "{{code}}")],
                        unit="suffix:/s",
                        rare=True,
                    ),
                    lines(
                        "Access refused",
                        "By the code of the problem. auth_unavailable: nobody can be let in, because keys are missing.",
                        [Query(rate("runwire_access_refused_total", by="code"), "{{code}}")],
                        unit="suffix:/s",
                        rare=True,
                    ),
                    lines(
                        "Restarts within processes",
                        "Loops that were started again after an unexpected error, and processes that were replaced "
                        "because they did not answer.",
                        [
                            Query(rate("runwire_loop_restarts_total"), "loops"),
                            Query(rate("runwire_process_replacements_total"), "processes"),
                        ],
                        unit="suffix:/s",
                        rare=True,
                    ),
                ),
                height=9,
            ),
            Row(
                (
                    lines(
                        "Telemetry dropped",
                        "Spans and log lines given up rather than hold up the work.",
                        [Query(rate("runwire_telemetry_dropped_total", by="signal"), "{{signal}}")],
                        unit="suffix:/s",
                        rare=True,
                    ),
                    lines(
                        "Observer age",
                        "Time since the observer looked at everything, with the limit of its alert.",
                        [Query(observer_age, "{{job}}")],
                        unit="s",
                        limit=stale,
                    ),
                    lines(
                        "Coverage of the audit",
                        "Within this time the audit of the invariants has looked at every run.",
                        [Query(f"min by (job) (runwire_audit_coverage_age_seconds{{{JOB}}})", "{{job}}")],
                        unit="s",
                    ),
                    lines(
                        "Versions",
                        "Processes by what they run; two during a deploy.",
                        [Query(f"sum by (version) (runwire_build_info{{{INSTANCE}}})", "{{version}}")],
                        unit="short",
                        decimals=0,
                        stacked=True,
                    ),
                    lines(
                        "Roles",
                        "Processes by role. One process may have several.",
                        [Query(f"sum by (role) (runwire_role_info{{{INSTANCE}}})", "{{role}}")],
                        unit="short",
                        decimals=0,
                    ),
                ),
                title="Watching",
                widths=(5, 5, 5, 4, 5),
            ),
            Row(
                (
                    lines(
                        "Oldest run not archived",
                        "Time since the end of the run that ended first of those not in the archive, with the limit of "
                        "its alert.",
                        [
                            Query(f"max by (job) (runwire_archive_oldest_pending_seconds{{{JOB}}})", "{{job}}"),
                            Query(f"max(runwire_archive_after_seconds{{{JOB}}})", "archived after", GREY),
                        ],
                        unit="s",
                        limit=behind,
                    ),
                    lines(
                        "Runs moved",
                        "By what became of them. Refused: their log is not whole, and they stay in PostgreSQL.",
                        [Query(rate("runwire_archive_runs_total", by="outcome"), "{{outcome}}")],
                        unit="ops",
                    ),
                    lines(
                        "Bytes archived",
                        "Bytes that were read back from cold storage and proven, a second.",
                        [Query(rate("runwire_archive_bytes_total"), "bytes")],
                        unit="Bps",
                    ),
                    lines(
                        "Archive failures",
                        "Steps of the archiver, reads and audits of the archive that failed.",
                        [Query(rate("runwire_archive_failures_total", by="reason"), "{{reason}}")],
                        unit="ops",
                    ),
                ),
                title="Archive",
            ),
        ),
    )

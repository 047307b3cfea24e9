"""The drills, one at least for each alert, and why some alerts have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drills import faults
from drills.drill import Drill
from drills.stage import Plan

LAGS: Final = ("PublishLagWarning", "PublishLagCritical", "PublishLagPage")
PUBLISH_BURNS: Final = ("PublishSloFastBurn", "PublishSloSlowBurn", "DeliverySloFastBurn", "DeliverySloSlowBurn")
RUN_BURNS: Final = ("RunSloFastBurn", "RunSloSlowBurn")

OF_A_BUSY_MACHINE: Final = frozenset(
    {*LAGS, *PUBLISH_BURNS, *RUN_BURNS, "PublisherDown", "ObserverStale", "TargetDown", "SseHeartbeatMissed"}
    | {"TelemetryDropped"}
)
"""What may be true besides where there is no CPU to be had: of late events, late scrapes and heartbeats, and a late
collector. Each has a drill; that it comes in the middle of another says nothing about that one."""

SPLIT: Final = {"api-0": ("api",), "worker-0": ("worker",), "publisher-0": ("publisher",), "observer-0": ("observer",)}
JOINED: Final = {"api-0": ("api", "worker"), "publisher-0": ("publisher",), "observer-0": ("observer",)}
PLANS: Final[Mapping[str, Plan]] = {
    "streams and runs": Plan(JOINED, alone=True),
    "outbox": Plan(JOINED),
    "processes and log": Plan(SPLIT),
}
"""Each a service of its own, so that faults of one do not show in another."""

WITHOUT_DRILL: Final[Mapping[str, str]] = {
    "Watchdog": "It fires always: the healthy baseline asserts that it does.",
    "RetentionBehind": "There is no archiver to break: the metric it looks at does not exist, and it is silent.",
}

DRILLS: Final[tuple[Drill, ...]] = (
    Drill(
        "a node hangs",
        stage="streams and runs",
        turn=1,
        fault=faults.node_hangs,
        what="A run's node waits and does not end.",
        recovery="Cancel the run.",
        runbook="runstalled",
        fires=("RunStalled",),
        also=RUN_BURNS,
    ),
    Drill(
        "viewers of a run churn",
        stage="streams and runs",
        turn=1,
        fault=faults.viewers_churn,
        what="Twelve viewers of a run are cut off and come back.",
        recovery="Mend what cuts them off; a minute later it is over.",
        runbook="ssechurn",
        fires=("SseChurn",),
    ),
    Drill(
        "a viewer flaps",
        stage="streams and runs",
        turn=1,
        fault=faults.viewer_flaps,
        what="A viewer is cut off seven times.",
        recovery="Mend what cuts it off; a minute later it is over.",
        runbook="sseflapping",
        fires=("SseFlapping",),
        also=("SseChurn",),
    ),
    Drill(
        "heartbeats are too rare",
        stage="streams and runs",
        turn=1,
        fault=faults.heartbeats_too_rare,
        what="A second API process, set to send a heartbeat an hour, has an open stream.",
        recovery="Stop that process; its clients go on elsewhere.",
        runbook="sseheartbeatmissed",
        fires=("SseHeartbeatMissed",),
    ),
    Drill(
        "an event is deleted",
        stage="streams and runs",
        turn=1,
        fault=faults.event_deleted,
        what="DELETE of one row of a finished run's log.",
        recovery="Restore the row from a backup.",
        runbook="sequencegap",
        fires=("SequenceGap",),
    ),
    Drill(
        "a terminal event is lost",
        stage="streams and runs",
        turn=1,
        fault=faults.terminal_event_lost,
        what="UPDATE of a finished run's RunFinished to something else.",
        recovery="Restore the row from a backup.",
        runbook="invariantbroken",
        fires=("InvariantBroken",),
        labels={"invariant": "single_terminal"},
    ),
    Drill(
        "an outbox row is deleted",
        stage="streams and runs",
        turn=1,
        fault=faults.outbox_row_deleted,
        what="DELETE of an open run's row in run_outbox.",
        recovery="Publish the run again.",
        runbook="rebuild-stream",
        fires=("InvariantBroken",),
        labels={"invariant": "published_prefix"},
    ),
    Drill(
        "a cursor is beyond its log",
        stage="streams and runs",
        turn=1,
        fault=faults.cursor_beyond_log,
        what="UPDATE of an open run's next_seq to far beyond its log.",
        recovery="Publish the run again.",
        runbook="rebuild-stream",
        fires=("InvariantBroken",),
        labels={"invariant": "cursor_within_log"},
    ),
    Drill(
        "the collector is gone",
        stage="streams and runs",
        turn=1,
        fault=faults.collector_gone,
        what="The OTLP collector goes away while runs are traced.",
        recovery="Bring the collector back.",
        runbook="telemetrydropped",
        fires=("TelemetryDropped",),
    ),
    Drill(
        "a second publisher",
        stage="streams and runs",
        turn=1,
        fault=faults.second_publisher,
        what="Somebody starts a second publisher.",
        recovery="Stop it.",
        runbook="extrapublisher",
        fires=("ExtraPublisher",),
    ),
    Drill(
        "cursors are held shortly",
        stage="outbox",
        turn=2,
        fault=faults.cursors_held(0.25, lag_s=(0.15, 0.4)),
        what="A session locks rows of run_outbox for about 250 ms, again and again.",
        recovery="End the forgotten transaction.",
        runbook="publishlagwarning",
        fires=("PublishLagWarning",),
        overtaken_by=("PublishLagCritical", "PublishLagPage"),
        also=(*LAGS, "RunStalled", *PUBLISH_BURNS, *RUN_BURNS),
    ),
    Drill(
        "cursors are held a while",
        stage="outbox",
        turn=3,
        fault=faults.cursors_held(0.65, lag_s=(0.6, 0.9)),
        what="A session locks rows of run_outbox for about 650 ms, again and again.",
        recovery="End the forgotten transaction.",
        runbook="publishlagcritical",
        fires=("PublishLagCritical",),
        mutes=("PublishLagWarning",),
        overtaken_by=("PublishLagPage",),
        also=("RunStalled", *PUBLISH_BURNS, *RUN_BURNS),
    ),
    Drill(
        "cursors are held long",
        stage="outbox",
        turn=1,
        fault=faults.cursors_held(2.0),
        what="A session locks rows of run_outbox for 2 s, again and again.",
        recovery="End the forgotten transaction.",
        runbook="publishlagpage",
        fires=("PublishLagPage", *PUBLISH_BURNS),
        mutes=("PublishLagWarning", "PublishLagCritical"),
        also=("OutboxBacklog", "RunStalled", *RUN_BURNS),
    ),
    Drill(
        "a cursor is held",
        stage="outbox",
        turn=1,
        fault=faults.cursor_held,
        what="A forgotten transaction holds one run's row in run_outbox; 500 events wait behind it.",
        recovery="End the forgotten transaction.",
        runbook="oldesteventunpublished",
        fires=("OldestEventUnpublished", "OutboxBacklog"),
        also=("RunStalled", *RUN_BURNS),
    ),
    Drill(
        "the publisher is killed",
        stage="outbox",
        turn=4,
        fault=faults.publisher_killed,
        what="SIGKILL of the publisher while it was already slow.",
        recovery="Start a publisher.",
        runbook="publisherdown",
        fires=("PublisherDown", "OldestEventUnpublished"),
        mutes=("PublishLagPage", "OutboxBacklog"),
        also=("TargetDown", "RunStalled", *LAGS, *PUBLISH_BURNS, *RUN_BURNS),
    ),
    Drill(
        "a process is frozen",
        stage="processes and log",
        turn=1,
        fault=faults.process_frozen,
        what="SIGSTOP of the worker: it is there, and does not answer.",
        recovery="SIGKILL it and start it again.",
        runbook="targetdown",
        fires=("TargetDown",),
        also=("RunStalled",),
    ),
    Drill(
        "the observer is killed",
        stage="processes and log",
        turn=1,
        fault=faults.observer_killed,
        what="SIGKILL of the only observer.",
        recovery="Start an observer.",
        runbook="observerstale",
        fires=("ObserverStale",),
        also=("TargetDown",),
    ),
    Drill(
        "runs are slow",
        stage="processes and log",
        turn=2,
        fault=faults.runs_are_slow,
        what="Runs take half as long again as the objective allows.",
        recovery="Nothing slow is started any more.",
        runbook="runslofastburn",
        fires=RUN_BURNS,
    ),
    Drill(
        "the log is locked",
        stage="processes and log",
        turn=3,
        fault=faults.log_locked,
        what="A forgotten transaction holds a lock on run_events that lets nobody write.",
        recovery="End the forgotten transaction.",
        runbook="appendslofastburn",
        fires=("AppendSloFastBurn", "AppendSloSlowBurn"),
        also=(*RUN_BURNS, *PUBLISH_BURNS, "RunStalled"),
    ),
)

"""Routing for Alertmanager: the receiver of each alert, and the alerts muted because their cause is already known."""

from __future__ import annotations

from typing import Any, Final

from runwire.ops.thresholds import Rhythm, Thresholds

# A dead publisher mutes other alerts, so its own alert must not come after theirs. The events that it leaves
# unpublished raise an alert of their own, and neither alert should wait for the other.
AT_ONCE: Final = ("SequenceGap", "InvariantBroken", "PublisherDown", "OldestEventUnpublished")
_CAUSED_BY_A_DEAD_PUBLISHER: Final = (
    "PublishLagWarning",
    "PublishLagCritical",
    "PublishLagPage",
    "OutboxBacklog",
    "PartLagCritical",
    "PartLagPage",
    "CanaryFailing",
)


def alertmanager(thresholds: Thresholds, *, webhook: str | None = None) -> dict[str, Any]:
    """Alertmanager's configuration. `webhook`: who gets the messages, instead of the one in the file of thresholds."""
    base = (webhook or thresholds.links.webhook).rstrip("/")
    rhythm = thresholds.routing
    return {
        "route": {
            "receiver": "ticket",
            "group_by": ["alertname", "job"],
            **_timing(rhythm["ticket"], thresholds),
            "routes": [
                {
                    "matchers": ['alertname="Watchdog"'],
                    "receiver": "watchdog",
                    **_timing(rhythm["watchdog"], thresholds),
                },
                {
                    "matchers": [_any_of(AT_ONCE)],
                    "receiver": "page",
                    **_timing(rhythm["at_once"], thresholds),
                },
                {
                    "matchers": ['severity="page"'],
                    "receiver": "page",
                    **_timing(rhythm["page"], thresholds),
                },
            ],
        },
        "inhibit_rules": [
            _mutes('alertname="PublisherDown"', _any_of(_CAUSED_BY_A_DEAD_PUBLISHER)),
            _mutes('alertname="ApiDown"', 'alertname="CanaryFailing"'),
            _mutes('alertname="PublishLagPage"', _any_of(("PublishLagWarning", "PublishLagCritical"))),
            _mutes('alertname="PublishLagCritical"', 'alertname="PublishLagWarning"'),
            _mutes('alertname="PartLagPage"', 'alertname="PartLagCritical"'),
        ],
        "receivers": [
            {"name": name, "webhook_configs": [{"url": f"{base}/{name}", "send_resolved": True}]}
            for name in ("page", "ticket", "watchdog")
        ],
    }


def _timing(rhythm: Rhythm, thresholds: Thresholds) -> dict[str, str]:
    return {
        "group_wait": thresholds.duration(rhythm.wait),
        "group_interval": thresholds.duration(rhythm.interval),
        "repeat_interval": thresholds.duration(rhythm.repeat),
    }


def _mutes(source: str, target: str) -> dict[str, Any]:
    """Only within a job: another runwire's dead publisher explains nothing here."""
    return {"source_matchers": [source], "target_matchers": [target], "equal": ["job"]}


def _any_of(alerts: tuple[str, ...]) -> str:
    return f'alertname=~"{"|".join(alerts)}"'

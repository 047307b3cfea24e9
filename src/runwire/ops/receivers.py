"""Receivers of Alertmanager by name: where it sends pages, tickets and the heartbeat, with secrets from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from runwire.errors import ConfigurationError

NAMES: Final = ("page", "ticket", "watchdog")
_SUMMARY: Final = "{{ .CommonAnnotations.summary }}"
_EACH: Final = (
    "{{ range .Alerts }}{{ .Annotations.description }}\n{{ end }}"
    "{{ with .CommonAnnotations.runbook_url }}{{ . }}{{ end }}"
)


@dataclass(frozen=True, slots=True)
class Receiver:
    """`name` is one of NAMES, `kind` one of KINDS. `file` holds the secret, on the host of Alertmanager."""

    name: str
    kind: str
    file: str
    channel: str | None = None
    """Of Slack; without one, the webhook's own."""

    def config(self) -> tuple[str, dict[str, Any]]:
        """The key of the receiver's list, and the entry."""
        return f"{self.kind}_configs", KINDS[self.kind](self) | {"send_resolved": True}


def _pagerduty(receiver: Receiver) -> dict[str, Any]:
    return {
        "routing_key_file": receiver.file,
        "severity": "critical" if receiver.name == "page" else "warning",
        "description": _SUMMARY,
        "client": "runwire",
        "details": {"firing": _EACH},
        "links": [{"href": "{{ .CommonAnnotations.runbook_url }}", "text": "runbook"}],
    }


def _opsgenie(receiver: Receiver) -> dict[str, Any]:
    return {
        "api_key_file": receiver.file,
        "message": _SUMMARY,
        "description": _EACH,
        "priority": "P1" if receiver.name == "page" else "P3",
        "source": "runwire",
    }


def _slack(receiver: Receiver) -> dict[str, Any]:
    return {
        "api_url_file": receiver.file,
        **({"channel": receiver.channel} if receiver.channel is not None else {}),
        "title": f"[{{{{ .Status | toUpper }}}}] {_SUMMARY}",
        "title_link": "{{ .CommonAnnotations.runbook_url }}",
        "text": _EACH,
    }


def _webhook(receiver: Receiver) -> dict[str, Any]:
    """Alertmanager 0.26 or newer."""
    return {"url_file": receiver.file}


KINDS: Final[dict[str, Callable[[Receiver], dict[str, Any]]]] = {
    "pagerduty": _pagerduty,
    "opsgenie": _opsgenie,
    "slack": _slack,
    "webhook": _webhook,
}


def receivers_of(texts: Sequence[str]) -> tuple[Receiver, ...]:
    """Receivers, each as `page=pagerduty:/etc/alertmanager/key`; Slack's may end with `#channel`.

    Raises ConfigurationError with those that are not of this form, without the part that may be a secret.
    """
    read = [(text, _receiver(text)) for text in texts]
    wrong = [
        f"--receiver: {text.partition(':')[0]}:... is not {'|'.join(NAMES)}={'|'.join(KINDS)}:/path/of/secret"
        for text, receiver in read
        if receiver is None
    ]
    if wrong:
        raise ConfigurationError(tuple(wrong))
    return tuple(receiver for _, receiver in read if receiver is not None)


def _receiver(text: str) -> Receiver | None:
    name, _, to = text.partition("=")
    kind, _, file = to.partition(":")
    path, hashed, channel = file.partition("#") if kind == "slack" else (file, "", "")
    if name not in NAMES or kind not in KINDS or not path.startswith("/") or (hashed and not channel):
        return None
    return Receiver(name, kind, path, f"#{channel}" if hashed else None)


def with_receivers(document: dict[str, Any], receivers: Sequence[Receiver]) -> dict[str, Any]:
    """Alertmanager's configuration, with these in place of the webhook of each name that they have."""
    for one in document["receivers"]:
        entries = [receiver.config() for receiver in receivers if receiver.name == one["name"]]
        if not entries:
            continue
        del one["webhook_configs"]
        for key, entry in entries:
            one.setdefault(key, []).append(entry)
    return document

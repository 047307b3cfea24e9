"""Rules as the Prometheus Operator takes them: a PrometheusRule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from runwire.errors import ConfigurationError

_KEY: Final = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


def prometheus_rule(document: Mapping[str, Any], *, labels: Mapping[str, str]) -> dict[str, Any]:
    """The groups of a rule file as an object of Kubernetes. An operator takes those whose `labels` it selects."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "runwire", "labels": {"app.kubernetes.io/name": "runwire", **labels}},
        "spec": {"groups": document["groups"]},
    }


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """Labels of an object, as `key=value` texts. Raises ConfigurationError with those that Kubernetes refuses."""
    pairs = [text.partition("=") for text in texts]
    wrong = [
        f"--label: {key}{equals}{value} is no label of Kubernetes like release=prometheus"
        for key, equals, value in pairs
        if not (equals and _KEY.fullmatch(key) and _VALUE.fullmatch(value))
    ]
    if wrong:
        raise ConfigurationError(tuple(wrong))
    return {key: value for key, _, value in pairs}

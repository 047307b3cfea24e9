"""Run with the Datadog Agent's libraries: checks one /metrics as its configuration says, and prints what it would send.

`agent.py CONF ENDPOINT` checks whenever a line comes in, and answers with one of JSON. The line names histograms.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from datadog_checks.base import OpenMetricsBaseCheckV2  # type: ignore[import-untyped,unused-ignore]
from datadog_checks.base.stubs import aggregator  # type: ignore[import-untyped,unused-ignore]


def main() -> int:
    path, endpoint = sys.argv[1:]
    configuration = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    (instance,) = configuration["instances"]
    instance["openmetrics_endpoint"] = endpoint
    check = OpenMetricsBaseCheckV2("openmetrics", configuration["init_config"], [instance])
    for line in sys.stdin:
        aggregator.reset()
        error = check.run()
        sys.stdout.write(json.dumps({"error": error, **sent(json.loads(line))}) + "\n")
        sys.stdout.flush()
    return 0


def sent(histograms: list[str]) -> dict[str, Any]:
    """By name: `metrics` as [kind, value, tags], `buckets` as [count, lower, upper, tags]; `healthy`: 0 is well."""
    kinds = {number: kind for kind, number in aggregator.METRIC_ENUM_MAP.items()}
    return {
        "metrics": _listed(aggregator.metric_names, aggregator.metrics, lambda m: [kinds[m.type], m.value, m.tags]),
        "buckets": _listed(
            [name for name in histograms if aggregator.histogram_bucket(name)],
            aggregator.histogram_bucket,
            lambda b: [b.value, b.lower_bound, b.upper_bound, b.tags],
        ),
        "healthy": [check.status for check in aggregator.service_checks("runwire.openmetrics.health")],
    }


def _listed(names: Any, of: Callable[[str], list[Any]], row: Callable[[Any], list[Any]]) -> dict[str, list[list[Any]]]:
    return {str(name): [row(one) for one in of(name)] for name in names}


if __name__ == "__main__":
    sys.exit(main())

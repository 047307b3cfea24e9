"""Writes what the Datadog Agent collects, from the table of docs/telemetry.md: `make docs`. `--check` only compares."""  # noqa: INP001  # a script

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
TABLE: Final = ROOT / "docs" / "telemetry.md"
CONF: Final = ROOT / "deploy" / "datadog" / "conf.d" / "openmetrics.d" / "conf.yaml"
NAMESPACE: Final = "runwire"

HEAD: Final = """\
# For the Datadog Agent: conf.d/openmetrics.d/conf.yaml. Generated from docs/telemetry.md by `make docs`, do not edit.
# An instance for each runwire process: repeat this one with the addresses of the other admin listeners.
"""

# A moment says nothing in a graph and cannot be alerted on: the Agent can send how long ago it was.
AGES: Final = {
    "runwire_observer_last_success_timestamp_seconds": "observer_last_success_age_seconds",
    "runwire_canary_last_success_timestamp_seconds": "canary_last_success_age_seconds",
    "runwire_canary_last_round_timestamp_seconds": "canary_last_round_age_seconds",
}
# Of what Prometheus clients tell of their process; without a prefix of ours.
PROCESS: Final = (
    "process_cpu_seconds",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
)


def documented(*, canary: bool = False) -> list[tuple[str, str]]:
    """(name, type) of every metric of docs/telemetry.md, in its order: of the service, or with those of the canary."""
    section = TABLE.read_text(encoding="utf-8").split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [(row[0].strip().strip("`"), row[1].strip()) for row in rows if canary or row[5].strip() != "canary"]


def metric(name: str) -> dict[str, Any]:
    """An entry of `metrics`: what the Agent finds, without `_total`, and what it is called there."""
    family = name.removesuffix("_total")
    short = family.removeprefix(f"{NAMESPACE}_")
    return {family: {"name": AGES[family], "type": "time_elapsed"} if family in AGES else short}


def configuration() -> dict[str, Any]:
    return {
        "init_config": {"service": "runwire"},
        "instances": [
            {
                "openmetrics_endpoint": "http://127.0.0.1:9464/metrics",
                "namespace": NAMESPACE,
                # Percentiles over all processes, instead of a series for each bucket of each histogram.
                "histogram_buckets_as_distributions": True,
                "collect_counters_with_distributions": True,
                # `version` is Datadog's own word for the version of a service.
                "rename_labels": {"version": "runwire_version"},
                "metrics": [
                    *(metric(name) for name, _ in documented(canary=True)),
                    *({name: name} for name in PROCESS),
                ],
            }
        ],
    }


def text() -> str:
    return HEAD + yaml.safe_dump(configuration(), sort_keys=False, width=120)


def main() -> int:
    """0, or 1 with `--check` when the file differs from what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when something would change")
    check = parser.parse_args().check
    current = CONF.read_text(encoding="utf-8") if CONF.is_file() else ""
    if current == text():
        return 0
    if check:
        sys.stderr.write(f"{CONF.relative_to(ROOT)} is out of date; run `make docs`\n")
        return 1
    CONF.parent.mkdir(parents=True, exist_ok=True)
    CONF.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the generated parts of the documentation: `make docs`. `--check` changes nothing and fails on drift."""  # noqa: INP001  # a script

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from runwire.archive import ArchiveMetrics
from runwire.canary import CanaryMetrics
from runwire.content import ContentMetrics
from runwire.content.part_metrics import PartMetrics
from runwire.errors import DECLARED
from runwire.observe import ObserverMetrics
from runwire.process.metrics import PlaceMetrics
from runwire.server.metrics import RequestMetrics
from runwire.server.table import API_ROUTES
from runwire.settings import Settings
from runwire.telemetry.exposition import Declared, Exposition
from runwire.telemetry.labels import OPEN_LABELS
from runwire.telemetry.metrics import PipelineMetrics, ProcessMetrics, StreamMetrics

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ENV = Settings.model_config["env_prefix"]

# A default factory's result depends on the machine.
COMPUTED = {"data_dir": "the user's data directory + `/runwire`", "worker_id": "the host's name"}


def settings_table() -> str:
    """A Markdown table of every setting, in the order of the class."""
    lines = ["| environment variable | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        if name == "database_url":
            meaning += " `DATABASE_URL` stands in for it."
        lines.append(f"| `{ENV}{name.upper()}` | {_default(name, field)} | {_allowed(field)} | {meaning} |")
    return "\n".join(lines)


def _default(name: str, field: FieldInfo) -> str:
    value = field.default
    if name in COMPUTED:
        return COMPUTED[name]
    if value is None or value == () or value is PydanticUndefined:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(str(part) for part in value)}`"
    return f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    low = high = ""
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = f"{rule.ge} or more"
        elif isinstance(rule, annotated_types.Gt):
            low = f"more than {rule.gt}"
        elif isinstance(rule, annotated_types.Le):
            high = f"at most {rule.le}"
        elif isinstance(rule, annotated_types.MaxLen):
            high = f"at most {rule.max_length} characters"
    return ", ".join(part for part in (low, high) if part)


def problems_table() -> str:
    """A Markdown table of every error code a client can get."""
    lines = ["| code | status | meaning | facts |", "|---|---|---|---|"]
    for declared in sorted(DECLARED.values(), key=lambda declared: declared.kind.status):
        kind, facts = declared.kind, ", ".join(f"`{fact.name}`" for fact in declared.facts)
        lines.append(f"| `{kind.code}` | {kind.status} | {kind.title} | {facts} |")
    return "\n".join(lines)


def metrics_table() -> str:
    """A Markdown table of every metric, by who exports it."""
    lines = ["| name | type | unit | labels and values | meaning | exported by |", "|---|---|---|---|---|---|"]
    for exporter, make in METRIC_GROUPS.items():
        out = Exposition()
        make(out)
        lines += [
            f"| `{one.name}` | {one.kind} | {one.unit} | {_labels(one)} | {one.meaning} | {exporter} |"
            for one in out.declared
        ]
    return "\n".join(lines)


METRIC_GROUPS: Mapping[str, Callable[[Exposition], object]] = {
    "pipeline": lambda out: PipelineMetrics(out, {}),
    "stream": StreamMetrics,
    "observer": ObserverMetrics,
    "parts": PartMetrics,
    "archive": ArchiveMetrics,
    "content": ContentMetrics,
    "requests": lambda out: RequestMetrics(out, API_ROUTES),
    "process": lambda out: (ProcessMetrics(out, ""), PlaceMetrics(out)),
    "canary": CanaryMetrics,
}


def _labels(declared: Declared) -> str:
    shown = (
        label if label in OPEN_LABELS else f"{label}: {', '.join(values)}" for label, values in declared.labels.items()
    )
    return "; ".join(shown)


def decisions_list() -> str:
    """A Markdown list of the decision records. Raises ValueError when two have the same number."""
    records = sorted(path for path in (DOCS / "decisions").glob("*.md") if path.name != "index.md")
    numbers = [path.name[:3] for path in records]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"two decision records have one number: {', '.join(path.name for path in records)}")
    titles = (path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for path in records)
    return "\n".join(f"- [{title}]({path.name})" for path, title in zip(records, titles, strict=True))


def _python_api() -> str:
    from python_api import python_api  # noqa: PLC0415  # reads the whole source, which other parts need not wait for

    return python_api()


GENERATED: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "settings": (DOCS / "operations.md", settings_table),
    "problems": (DOCS / "protocol.md", problems_table),
    "metrics": (DOCS / "telemetry.md", metrics_table),
    "decisions": (DOCS / "decisions" / "index.md", decisions_list),
    "python-api": (DOCS / "reference" / "python.md", _python_api),
}
"""The page and the content for each pair of markers."""


def rendered(page: str, name: str, content: str) -> str:
    """The page with `content` between its markers. Raises ValueError when it has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, began, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (began and ended):
        raise ValueError(f"no {begin} and {end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def main() -> int:
    """0, or 1 with `--check` when a page differs from what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when something would change")
    check = parser.parse_args().check
    drifted = False
    for name, (path, content) in GENERATED.items():
        page = path.read_text(encoding="utf-8")
        wanted = rendered(page, name, content())
        if page == wanted:
            continue
        drifted = True
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)}: {name} is out of date; run `make docs`\n")
        else:
            path.write_text(wanted, encoding="utf-8")
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())

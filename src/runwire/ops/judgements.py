"""Renders the thresholds that the service itself uses as a module, because an installation has no
alerts/thresholds.yaml.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runwire.ops.thresholds import Severity, Thresholds

MODULE: Final = Path("src") / "runwire" / "thresholds.py"
_HEAD: Final = '''"""Thresholds of the service, in seconds: from alerts/thresholds.yaml, by `runwire ops render`."""

from typing import Final
'''
_ALERTS: Final = {
    "UNPUBLISHED_S": "oldest_unpublished",
    "PUBLISHER_DEAD_S": "publisher_heartbeat",
    "OBSERVER_STALE_S": "observer_stale",
}
"""Levels of alerts by which the service judges, too: those that page."""


def judgements(thresholds: Thresholds) -> str:
    """The text of MODULE."""
    return _HEAD + "".join(
        f"\n{name}: Final = {value!r}\n{_docstring(about)}" for name, value, about in _all(thresholds)
    )


def _all(thresholds: Thresholds) -> Iterator[tuple[str, float, str]]:
    for constant, name in _ALERTS.items():
        level = thresholds.level(name, Severity.PAGE)
        yield constant, level.value, f"{_plain(thresholds.named(name).title())}. {level.why}"
    for key, judgement in thresholds.diagnosis.items():
        yield f"{key.upper()}_S", judgement.value, f"{judgement.what}. {judgement.why}"


def _plain(markdown: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown)


def _docstring(about: str) -> str:
    return "\n".join(textwrap.wrap(f'"""{about[0].upper()}{about[1:]}"""', 120)) + "\n"

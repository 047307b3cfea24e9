"""The rules with their durations shortened, so that minutes tell what hours would; every limit is as in production."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from runwire.ops.render import alert_groups, recording_groups
from runwire.ops.rules import rule_file
from runwire.ops.thresholds import load

SHORTER: Final = 10.0
"""An hour of the rules in six minutes."""


def shortened(root: Path) -> dict[str, Any]:
    read = load(root, scale=SHORTER)
    replace = msgspec.structs.replace
    whole = replace(
        read,
        thresholds={name: replace(one, scales=False) for name, one in read.thresholds.items()},
        watching={name: replace(one, scales=False) for name, one in read.watching.items()},
        slos=replace(
            read.slos,
            objectives={name: replace(one, scales=False) for name, one in read.slos.objectives.items()},
        ),
    )
    return rule_file((*recording_groups(whole), *alert_groups(whole)), whole)

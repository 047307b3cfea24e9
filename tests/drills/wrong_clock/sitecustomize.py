"""Makes the clock of this process wrong by as many seconds as the file $DRILL_CLOCK says, whenever it is asked."""

import os
import time
from pathlib import Path

_FILE = Path(os.environ["DRILL_CLOCK"])
_real_ns = time.time_ns


def _wrong_ns() -> int:
    return _real_ns() + int(float(_FILE.read_text() or "0") * 1e9)


def _wrong() -> float:
    return _wrong_ns() / 1e9


vars(time).update(time_ns=_wrong_ns, time=_wrong)

"""`os._exit` called for a node ends the node, not the process: as `sys.exit` does, which raises SystemExit.

Nothing else runs after `os._exit`: every other run of the process would lose an attempt because of one. A child that a
node has forked ends as it asks to. A call outside of nodes ends this process, and never with 0: after that nobody would
start it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from runwire.errors import ExitCode
from runwire.orchestrate.beat import node_at_work

_exit: Final = os._exit  # the one there is


@contextmanager
def nodes_kept_from_exiting() -> Iterator[None]:
    """Inside, `os._exit` raises SystemExit where a node is at work: in its tasks and in the threads it started."""
    process = os.getpid()

    def end(status: int) -> NoReturn:
        if os.getpid() != process:
            _exit(status)
        if node_at_work() is not None:
            raise SystemExit(status)
        _exit(status or ExitCode.FAILED)

    before, os._exit = os._exit, end
    try:
        yield
    finally:
        os._exit = before

"""Programs that a test starts end with the test run, however it ends: run as a script, on the way to `exec`.

A run that is killed cleans up nothing. So each program asks the kernel (Linux) to be killed with the thread that
started it. The thread must therefore live as long as the program is needed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def tied(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` and has it killed when the starting thread, or its process, ends."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(parent):  # it died before it could be watched
        raise SystemExit("the parent process is gone")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would pass that on
    os.execvp(command[0], command)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])

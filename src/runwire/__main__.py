"""The program `runwire`, which `python -m runwire` is, too."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Runs the command line of this process and exits. A Ctrl-C is no error, however early it comes."""
    try:
        from runwire.cli import main as run  # noqa: PLC0415  # most of a short command's time; see above

        code = run()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    sys.exit(code)


if __name__ == "__main__":
    main()

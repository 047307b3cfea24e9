"""Whether an error means that the database role may not do what it was asked to."""

from __future__ import annotations

from typing import Final

_INSUFFICIENT_PRIVILEGE: Final = "42501"


def forbidden(error: BaseException) -> str | None:
    """The privilege that the server says is missing, from its own error or from one of ours that it caused; None of all
    others.

    It names tables, schemas and functions, and nothing that was stored.
    """
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE:
            cause = seen.__cause__ if isinstance(seen.__cause__, BaseException) else None
            return str(getattr(seen, "message", None) or getattr(cause, "message", None) or seen)
        seen = seen.__cause__
    return None

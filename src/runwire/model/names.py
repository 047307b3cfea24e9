"""Names of user code that may be said aloud, in logs and codes: bounded, and never the text of anything."""

from __future__ import annotations

import re
from typing import Any, Final

CODE_MAX: Final = 48

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")
_NAME_OF: Final[Any] = type.__dict__["__name__"]
_NAME_MAX: Final = 80


def class_name(cls: type) -> str:
    """The name of a class, past whatever its metaclass makes of it; `unnamed` for one that is no identifier."""
    name: str = _NAME_OF.__get__(cls)
    return name if len(name) <= _NAME_MAX and name.isascii() and name.isidentifier() else "unnamed"


def plain(text: str) -> str:
    """The text alone. A subclass may be a member of an enumeration, which an f-string shows by its name, or it may have
    methods of user code.
    """
    return str.__str__(text)


def code_of(said: object) -> str:
    """The error code itself if it is one: snake_case, at most 48 characters. Anything else is `exception`."""
    if not issubclass(type(said), str):
        return "exception"
    text = str.__str__(said)
    return text if _CODE.fullmatch(text) else "exception"

"""Parts as values: names, states, and the bytes that are read of one. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from runwire.errors import InvalidRequest
from runwire.model.content import RESULT
from runwire.model.names import plain

NAME_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
"""Names of parts: they are words of an event's `fn`."""
OPEN_MAX: Final = 500
"""Parts of a run that may be open at once. The id of a stream names each, and has to fit into a header of 8 KiB."""
_NAME: Final = re.compile(NAME_PATTERN)
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}(; ?charset=utf-8)?")
PREFIX: Final = "part:"
"""Begins the `fn` of every event that is about a part. Nobody else may write one."""


class PartState(StrEnum):
    """Only an open part takes bytes. A retried node opens an abandoned part again, as a new attempt."""

    OPEN = "open"
    SEALED = "sealed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Part:
    """A part's newest attempt. Its event `opened` is `opened_seq`; `sealed` or `abandoned` is `ended_seq`.

    `size` is in bytes. `written_us` is when the last of them was stored (epoch us).
    """

    run_id: str
    n: int
    part_id: int
    attempt: int
    name: str
    media_type: str
    state: PartState
    size: int
    opened_seq: int
    ended_seq: int | None
    written_us: int | None
    artifact: int | None = None
    """The artifact that a sealed part became."""
    erased: bool = False
    """The bytes are gone: the part was erased, or that artifact."""
    tenant: str = ""

    @property
    def is_text(self) -> bool:
        """Whether its bytes are UTF-8."""
        return is_text(self.media_type)


def is_text(media_type: str) -> bool:
    """Whether content of the type is shown as text: `text/*`, JSON and its kin."""
    kind = media_type.partition(";")[0].strip()
    return kind.startswith("text/") or kind == "application/json" or kind.endswith("+json")


def checked_name(name: object) -> str:
    """The name as plain text. Raises InvalidRequest (`invalid_part_name`). `result` is the name of another artifact."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == RESULT:
        raise InvalidRequest(
            "A part's name must be a letter or underscore, then up to 63 of A-Za-z0-9_, and not `result`.",
            code="invalid_part_name",
        )
    return plain(name)


def checked_media_type(media_type: object) -> str:
    """The type as plain text. Raises InvalidRequest (`invalid_media_type`)."""
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidRequest("media_type must be like text/markdown, in lower case.", code="invalid_media_type")
    return plain(media_type)


def opened(name: str, n: int) -> str:
    """The `fn` of the event that opens an attempt."""
    return f"{PREFIX}{name}:{n}:opened"


def ended(name: str, n: int, state: PartState) -> str:
    """The `fn` of the event that ends an attempt."""
    return f"{PREFIX}{name}:{n}:{state.value}"

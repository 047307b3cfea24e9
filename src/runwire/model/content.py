"""Content: the values that name it. Its bytes never appear in an event."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from runwire.errors import InvalidRequest
from runwire.model.event import EventType, NewEvent
from runwire.model.names import plain

ARTIFACT_NAME_PATTERN: Final = r"^[A-Za-z0-9_]{1,64}(?:\.[A-Za-z0-9_]{1,64}){0,4}$(?!\n)"
"""Names of artifacts and parts. They appear in the `fn` of events, so they follow its grammar, and no name has a colon:
`artifact:<name>:<n>` can be taken apart in one way only."""
ARTIFACT_NAME_MAX: Final = 128
ARTIFACT_N_MAX: Final = 2**31 - 1
MEDIA_TYPE_PATTERN: Final = (
    r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}"
    r"(?:; ?[a-z0-9-]{1,32}=[A-Za-z0-9!#$&^_.+-]{1,64}){0,3}$(?!\n)"
)
MEDIA_TYPE_MAX: Final = 128
OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"
RESULT: Final = "result"
"""Name of the artifact that holds a run's result."""
RESERVED: Final = ("artifact:", "part:")
"""Prefixes of traces that only content may make."""
NUMBER: Final = "+"
"""Stands in a trace for the number that the append mints. No identifier has it, so nobody can forge one."""

_NAME = re.compile(ARTIFACT_NAME_PATTERN)
_MEDIA_TYPE = re.compile(MEDIA_TYPE_PATTERN)


class Artifact(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A finished piece of content of a run. `size` is in bytes, `created_at` and `erased_at` in epoch milliseconds.

    `seq` is that of its event. An erased artifact has no `sha256`, and its bytes are gone.
    """

    n: int
    name: str
    size: int
    media_type: str
    sha256: str | None = None
    seq: int | None = None
    created_at: int | None = None
    erased_at: int | None = None


def checked_name(name: str) -> str:
    """The name as plain text. Raises InvalidRequest (`invalid_artifact_name`)."""
    if not (isinstance(name, str) and len(name) <= ARTIFACT_NAME_MAX and _NAME.match(name)):
        raise InvalidRequest(
            f"A name is 1 to 5 words of A-Za-z0-9_ with dots between, at most {ARTIFACT_NAME_MAX} characters.",
            code="invalid_artifact_name",
        )
    return plain(name)


def checked_media_type(media_type: str) -> str:
    """The media type as plain text. Raises InvalidRequest (`invalid_media_type`)."""
    if not (isinstance(media_type, str) and len(media_type) <= MEDIA_TYPE_MAX and _MEDIA_TYPE.match(media_type)):
        raise InvalidRequest(
            "A media type is as `text/plain` or `text/plain; charset=utf-8`.", code="invalid_media_type"
        )
    return plain(media_type)


def artifact_trace(name: str) -> NewEvent:
    """The event of a new artifact, before the append has minted its number."""
    return NewEvent(EventType.DEBUG_TRACE, fn=f"artifact:{name}:{NUMBER}")


def is_numbered(event: NewEvent) -> bool:
    """Whether the append mints a number for the event."""
    return event.fn is not None and event.fn.endswith(NUMBER)


def check_not_reserved(fn: str | None) -> None:
    """Raises InvalidRequest (`reserved_fn`) for a trace that claims to tell of content."""
    if fn is not None and fn.startswith(RESERVED):
        raise InvalidRequest("fn must not begin with `artifact:` or `part:`", code="reserved_fn")

"""Sessions and labels: names that callers give to runs, to find them by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from runwire.errors import InvalidRequest
from runwire.model.run import RUN_ID_PATTERN

LABELS_MAX: Final = 16
KEY_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$"
"""Keys as Kubernetes has them, with a slash anywhere. No colon: it ends the key in `key:value`."""
VALUE_MAX_BYTES: Final = 256

_SESSION: Final = re.compile(RUN_ID_PATTERN)
_KEY: Final = re.compile(KEY_PATTERN)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def checked_session(session: str) -> str:
    """The session itself. Raises InvalidRequest (`invalid_session`) unless it is 1 to 128 of `A-Za-z0-9._:-`."""
    if not _SESSION.fullmatch(session):
        raise InvalidRequest("session must be 1 to 128 of A-Za-z0-9._:-", code="invalid_session")
    return session


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels themselves. Raises InvalidRequest (`invalid_labels`), whose text quotes none of them.

    There are at most 16. A key is 1 to 63 of `A-Za-z0-9._/-` and begins and ends with a letter or digit; a value has at
    most 256 bytes of UTF-8 and no control characters, and may be empty.
    """
    if len(labels) > LABELS_MAX:
        raise InvalidRequest(f"a run has at most {LABELS_MAX} labels", code="invalid_labels")
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                "the key of a label must be 1 to 63 of A-Za-z0-9._/- and begin and end with a letter or digit",
                code="invalid_labels",
            )
        if _CONTROL.search(value) or len(value.encode()) > VALUE_MAX_BYTES:
            raise InvalidRequest(
                f"the value of a label must have at most {VALUE_MAX_BYTES} bytes and no control characters",
                code="invalid_labels",
            )
    return dict(labels)


def parsed_labels(texts: Iterable[str], *, between: str = ":") -> dict[str, str]:
    """Labels as `key:value` texts. Raises InvalidRequest (`invalid_labels`), also for a key with two values."""
    labels: dict[str, str] = {}
    for text in texts:
        key, colon, value = text.partition(between)
        if not colon:
            raise InvalidRequest(f"a label must be written key{between}value", code="invalid_labels")
        if labels.setdefault(key, value) != value:
            raise InvalidRequest("a label has two values, and no run has both", code="invalid_labels")
    return checked_labels(labels)

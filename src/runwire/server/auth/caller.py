"""Callers, scopes, and what a route asks of its callers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from runwire.errors import NotPermitted
from runwire.model.run import DEFAULT_TENANT

# No colon: `<tenant>:<rest>` as a run id belongs to one tenant, whatever names there are.
_TENANT: Final = re.compile(r"[A-Za-z0-9._@|-]{1,100}")


class Scope(StrEnum):
    """Permissions of a caller. Public API."""

    START = "runs:start"
    READ = "runs:read"
    """Lists, views, events and streams, none of which has payload."""
    STATE = "runs:state"
    """A run's state, which has payload. Watching progress does not need it."""
    CANCEL = "runs:cancel"
    SIGNAL = "runs:signal"
    """Often an approval, so neither starting nor cancelling implies it."""
    APPEND = "runs:append"
    CONTENT_READ = "content:read"
    """Content, which users see and events never have: the data of signals, artifacts, parts."""
    CONTENT_WRITE = "content:write"
    """For external orchestrators, besides the fence of their run."""
    CONTENT_ERASE = "content:erase"
    OPS = "ops"
    """Diagnoses, which name processes, sessions and locks of the service."""


@dataclass(frozen=True, slots=True)
class Access:
    """The scope that a route requires, or None. `ticket`: a stream ticket suffices."""

    scope: Scope | None
    ticket: bool = False


PUBLIC: Final = Access(None)
STREAM: Final = Access(Scope.READ, ticket=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. `tenant` is None when tenants are off. `expires_at` is in epoch seconds.

    `key_id` names the API key of the request, or the key to which its ticket was issued.
    """

    subject: str
    tenant: str | None
    scopes: frozenset[Scope]
    expires_at: float | None = None
    key_id: str | None = None

    def check(self, scope: Scope) -> None:
        """Raises NotPermitted when the caller lacks the scope."""
        if scope not in self.scopes:
            raise NotPermitted(f"The request needs the scope {scope}.", scope=scope)


ANYBODY: Final = Caller("anybody", None, frozenset(Scope))
"""The caller of every request when there is no authentication."""


def known_scopes(words: Iterable[str]) -> frozenset[Scope]:
    """The scopes among `words`, without those of other services."""
    known = {scope.value for scope in Scope}
    return frozenset(Scope(word) for word in words if word in known)


def is_tenant(name: object) -> bool:
    """Whether the name is valid for a tenant: 1 to 100 of `A-Za-z0-9._@|-`."""
    return isinstance(name, str) and _TENANT.fullmatch(name) is not None


def check_run_id(run_id: str, *, tenant: str) -> None:
    """Accepts a run id that the tenant may choose: `<tenant>:...`, or for `default` one without a colon.

    Every id belongs to one tenant, so none can take another's ids, or learn by trying which of them exist.
    Raises NotPermitted (`run_id_reserved`).
    """
    named, colon, _ = run_id.partition(":")
    if (named if colon else DEFAULT_TENANT) != tenant:
        raise NotPermitted(f"A run id chosen by tenant {tenant} must begin with `{tenant}:`.", code="run_id_reserved")

"""Authentication and authorisation: API keys, tokens, stream tickets, and the gate before every route."""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.server.auth.caller import ANYBODY, PUBLIC, STREAM, Access, Caller, Scope, check_run_id
    from runwire.server.auth.gate import Gate, Guarded, caller_of, check_guarded
    from runwire.server.auth.keys import KeyRing
    from runwire.server.auth.tickets import Tickets
    from runwire.server.auth.tokens import TokenVerifier
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "ANYBODY",
    "PUBLIC",
    "STREAM",
    "Access",
    "Caller",
    "Gate",
    "Guarded",
    "KeyRing",
    "Scope",
    "Tickets",
    "TokenVerifier",
    "caller_of",
    "check_guarded",
    "check_run_id",
]

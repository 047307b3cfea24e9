"""Errors of a request itself, of its caller, and of the service's limits."""

from __future__ import annotations

from runwire.errors.kinds import ExitCode, Fact, Kind, RunwireError, declare


class InvalidRequest(RunwireError):
    """The caller's input breaks a rule. `code` names the rule, `detail` the place. Nothing was changed."""

    kind = Kind("invalid_request", 422, "The body does not match the schema.")
    others = (
        Kind("malformed_http", 400, "The request breaks the rules of HTTP/1.1."),
        Kind("malformed_json", 400, "The body is not JSON."),
        Kind("malformed_body", 400, "The body could not be read."),
        Kind("duplicate_header", 400, "A header that may appear once appears twice."),
        Kind("unknown_parameter", 400, "The URL has a query parameter that this route does not know."),
        Kind("invalid_run_id", 400, "A run id must be 1 to 128 characters of A-Za-z0-9._:-"),
        Kind("invalid_cursor", 400, "The cursor is malformed."),
        Kind("invalid_replay", 400, "replay must be 1, and speed needs replay."),
        Kind("invalid_speed", 400, "The speed must be a number up to 1000, or max."),
        Kind("invalid_limit", 400, "The limit is out of range."),
        Kind("invalid_state", 400, "Unknown run state."),
        Kind("invalid_agent", 400, "The agent name is not valid."),
        Kind("invalid_session", 400, "A session must be 1 to 128 characters of A-Za-z0-9._:-"),
        Kind("invalid_labels", 400, "A label is not valid, or there are too many labels."),
        Kind("invalid_selector", 400, "A stream of many runs is of a list of runs, of one session, or of labels."),
        Kind("invalid_filter", 400, "A filter of the list is not valid."),
        Kind("invalid_idempotency_key", 400, "An Idempotency-Key must be 1 to 255 visible ASCII characters."),
        Kind("invalid_artifact_name", 400, "The name must be 1 to 5 words of A-Za-z0-9_ with dots between."),
        Kind(
            "missing_fence",
            400,
            "The header Runwire-Fence is missing. It carries the fence that the start of the run returned.",
        ),
        Kind("invalid_part_name", 400, "The name of a part must be an identifier."),
        Kind("invalid_media_type", 400, "The media type is malformed."),
        Kind("invalid_part", 400, "A part is named by its number."),
        Kind("invalid_offset", 400, "The offset is malformed or past the end."),
        Kind("body_too_large", 413, "The body is too large."),
        Kind("signal_too_large", 413, "The signal's data has more than 64 KiB of JSON."),
        Kind("unsupported_media_type", 415, "The body must be application/json."),
        Kind("unsupported_encoding", 415, "The body must not be compressed."),
        Kind("invalid_input", 422, "The input does not match the agent's state."),
        Kind("invalid_signal", 422, "The signal's data does not match the schema of its wait."),
        Kind("reserved_fn", 422, "The prefixes `artifact:` and `part:` of a DebugTrace are reserved for content."),
        Kind("batch_too_large", 422, "The batch has too many events."),
    )
    exit_code = ExitCode.USAGE

    def __init__(self, detail: str, *, code: str = "invalid_request") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class RequestTimedOut(RunwireError):
    """The request did not arrive in time. Nothing was changed."""

    kind = Kind("request_timeout", 408, "The request did not arrive in time.")


class Unauthenticated(RunwireError):
    """The caller is unknown. `code` gives the reason: credentials missing, invalid or expired."""

    kind = Kind("credentials_missing", 401, "The request needs credentials.", counted="access_refused")
    others = (
        Kind("credentials_invalid", 401, "The credentials are not valid for this service.", counted="access_refused"),
        Kind("credentials_expired", 401, "The credentials have expired.", counted="access_refused"),
    )

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code


class NotPermitted(RunwireError):
    """The caller is known and lacks a permission. `scope` names the missing scope; None for any other reason."""

    kind = Kind(
        "scope_missing", 403, "The credentials lack the scope that this request needs.", counted="access_refused"
    )
    others = (
        Kind("run_id_reserved", 403, "A run id that you choose must begin with your tenant and a colon.", bare=True),
        Kind(
            "origin_refused",
            403,
            "Web pages of this origin may not send this request to a service without authentication.",
            bare=True,
        ),
        Kind("host_refused", 403, "A service without authentication does not accept this host name.", bare=True),
    )
    facts = (Fact("scope", "scope", str, "The scope that the request needs."),)

    def __init__(self, detail: str, *, code: str = "scope_missing", scope: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.scope = scope


class AuthUnavailable(RunwireError):
    """The service cannot identify the caller now: the keys that verify tokens are not available."""

    kind = Kind(
        "auth_unavailable",
        503,
        "The keys that verify tokens are not available. Nothing was changed.",
        counted="access_refused",
    )


class Overloaded(RunwireError):
    """This process is at a limit, named by `code`. Nothing was changed. Try again after `retry_after_s` seconds."""

    kind = Kind("too_many_requests", 429, "Too many requests from this client address.", counted="requests_refused")
    others = (
        Kind(
            "too_many_own_streams", 429, "Too many open streams from this client address.", counted="requests_refused"
        ),
        Kind("too_many_streams", 503, "Too many open streams.", counted="requests_refused"),
        Kind("too_many_runs", 503, "Too many open runs. The run was not started.", counted="requests_refused"),
        Kind("too_many_connections", 503, "Too many open connections."),
    )

    def __init__(self, detail: str, *, code: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.retry_after_s = retry_after_s


for _kind in (
    Kind("not_found", 404, "There is no resource at this path."),
    Kind("method_not_allowed", 405, "This path does not accept this method."),
    Kind("uri_too_long", 414, "The URL is too long."),
    Kind("expectation_failed", 417, "The server supports no expectation but 100-continue."),
    Kind("headers_too_large", 431, "A header is too long."),
    Kind("internal", 500, "Unexpected error in the service."),
):
    declare(_kind)

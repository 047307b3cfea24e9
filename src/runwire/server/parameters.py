"""The query parameters and headers that routes take. `requests` parses them."""

from __future__ import annotations

from typing import Final

from runwire.model.content import ARTIFACT_NAME_MAX, ARTIFACT_NAME_PATTERN
from runwire.model.event import NAME_PATTERN
from runwire.model.labels import LABELS_MAX
from runwire.model.names import CODE_MAX
from runwire.model.run import RUN_ID_PATTERN, RunState
from runwire.orchestrate import RunOrder
from runwire.server.problems import LINE_MAX
from runwire.server.requests import SEQ_MAX, TIME_MAX_MS
from runwire.server.routes import Parameter

_SEQ: Final = {"type": "integer", "minimum": 0, "maximum": SEQ_MAX}
_TIME: Final = {"type": "integer", "minimum": 0, "maximum": TIME_MAX_MS}
FROM_SEQ: Final = Parameter("fromSeq", _SEQ, "The last seq the client has: it gets what comes after.")
_EVENT_ID: Final = {"anyOf": [_SEQ, {"type": "string", "pattern": "^[0-9]+~[0-9.:,]+$"}]}
LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID", _EVENT_ID, "The last id a reconnecting EventSource has. Wins over `fromSeq`."
)
PARTS_NAMED: Final = Parameter(
    "parts",
    {"type": "string", "maxLength": 1000, "examples": ["*", "answer,notes"]},
    "Mix in the bytes of these parts: names with commas between, or `*` for all. Needs the scope `content:read`.",
)
LAST_EVENT_ID_QUERY: Final = Parameter(
    "lastEventId", _EVENT_ID, "The same as Last-Event-ID, for an EventSource of JavaScript that sends it in the query."
)
IF_NONE_MATCH: Final = Parameter("If-None-Match", {"type": "string"}, "The ETag of the client's copy.")
REPLAY: Final = Parameter("replay", {"type": "string", "const": "1"}, "A closed run once more, in its own time.")
SPEED: Final = Parameter(
    "speed",
    {"type": "string", "pattern": r"^(max|[0-9]{1,4}(\.[0-9]{1,3})?)$", "examples": ["1", "10", "max"]},
    "Of a replay: how much faster than it was, up to 1000, or all at once.",
)
STATE: Final = Parameter("state", {"enum": [str(state) for state in RunState]}, "Only runs in this state.")
AGENT: Final = Parameter("agent", {"type": "string", "pattern": NAME_PATTERN}, "Only runs of this agent.")
SESSION: Final = Parameter("session", {"type": "string", "pattern": RUN_ID_PATTERN}, "Only runs of this session.")
LABEL: Final = Parameter(
    "label",
    {"type": "array", "items": {"type": "string"}, "maxItems": LABELS_MAX},
    "Only runs with this label, written `key:value`. Repeat it for several: runs have all of them.",
)
LISTED_RUN: Final = Parameter(
    "run",
    {"type": "array", "items": {"type": "string", "pattern": RUN_ID_PATTERN}, "maxItems": 1000},
    "A run of the stream. Repeat it for several: the setting `sse_runs_max` bounds their number, and an address has at "
    f"most {LINE_MAX} bytes.",
)
SELECTOR: Final = (LISTED_RUN, SESSION, LABEL)
"""One kind of them names the runs of a stream of many."""
MANY_EVENT_ID: Final = Parameter(
    "Last-Event-ID", {"type": "string"}, "The last `id:` of a block that the client has. It is opaque."
)
MANY_EVENT_ID_QUERY: Final = Parameter(
    "lastEventId", {"type": "string"}, "The same, for an EventSource of JavaScript that sends it in the query."
)
ERROR_CODE: Final = Parameter("errorCode", {"type": "string", "maxLength": CODE_MAX}, "Only runs that failed with it.")
FROM: Final = Parameter("from", _TIME, "Only runs created at this moment (epoch milliseconds) or later.")
UNTIL: Final = Parameter("until", _TIME, "Only runs created before this moment (epoch milliseconds).")
RUN_FILTERS: Final = (STATE, AGENT, SESSION, LABEL, ERROR_CODE, FROM, UNTIL)
SORT: Final = Parameter(
    "sort",
    {"enum": [str(order) for order in RunOrder], "default": "created"},
    "The latest created first, or the latest ended first, without runs that are open.",
)
CURSOR: Final = Parameter("cursor", {"type": "string"}, "`nextCursor` of the page before.")
LIMIT: Final = Parameter(
    "limit", {"type": "integer", "minimum": 1}, "At most this many.", at_most=lambda settings: settings.page_max_events
)
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "The same key with the same body starts the run once; with another body it is a conflict.",
)
TRACEPARENT: Final = Parameter(
    "traceparent",
    {"type": "string"},
    "W3C Trace Context: the run's spans go on in this trace, sampled if it is. Ignored when malformed.",
)
RANGE: Final = Parameter("Range", {"type": "string"}, "One range of bytes, as `bytes=0-499`. Others are ignored.")
IF_RANGE: Final = Parameter("If-Range", {"type": "string"}, "The ETag of the bytes that the range is of.")
_ARTIFACT_NAME: Final = {"type": "string", "pattern": ARTIFACT_NAME_PATTERN, "maxLength": ARTIFACT_NAME_MAX}
ARTIFACT_NAME: Final = Parameter("name", _ARTIFACT_NAME, "Only artifacts of this name.")
NEW_ARTIFACT_NAME: Final = Parameter("name", _ARTIFACT_NAME, "The artifact's name.", required=True)
OFFSET: Final = Parameter("offset", {"type": "string"}, "`-1`, `now`, or a `Stream-Next-Offset`.")
LIVE: Final = Parameter("live", {"enum": ["long-poll", "sse"]}, "Wait for more. Needs `offset`.")
STREAM_CURSOR: Final = Parameter("cursor", {"type": "string"}, "The `Stream-Cursor` of the answer before.")
SSE_ENCODING: Final = Parameter(
    "Stream-SSE-Data-Encoding",
    {"const": "base64"},
    "With `live=sse`: send text in base64, too. Without it, text has its line ends as events have them.",
)
STREAM_CLOSED: Final = Parameter("Stream-Closed", {"const": "true"}, "Seals the part after the body.")
FENCE: Final = Parameter("Runwire-Fence", _SEQ, "The fence that the start of the run gave.", required=True)

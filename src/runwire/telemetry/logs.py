"""Log lines of a process: one JSON object a line, an event name from one enum, facts as fields.

They go to stdout: `serve` has no other output there, and whoever starts it reads the port from the first line,
`server_started`. Commands that print results pass `stream=sys.stderr`.

No line carries an exception's text, which may quote what a node worked on: its type and its frames only.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import IO, Any, Final, Literal, cast

import msgspec
import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from runwire.model.names import class_name
from runwire.telemetry.line_writer import LineWriter
from runwire.telemetry.settings import DEFAULTS

LogFormat = Literal["json", "console"]

MAX_FRAMES: Final = 20


class LogEvent(StrEnum):
    """The event that a log line reports. Names are public API; docs/telemetry.md explains each."""

    SERVER_STARTED = "server_started"
    SERVER_DRAINING = "server_draining"
    SERVER_STOPPED = "server_stopped"
    PROCESS_ENDED = "process_ended"
    PROCESS_DEAF = "process_deaf"
    PROCESS_OVERDUE = "process_overdue"
    PROCESS_NOT_STARTED = "process_not_started"
    RUN_STARTED = "run_started"
    RUN_RESUMED = "run_resumed"
    RUN_WAITING = "run_waiting"
    RUN_FINISHED = "run_finished"
    CANCEL_REQUESTED = "cancel_requested"
    NODE_STARTED = "node_started"
    NODE_FINISHED = "node_finished"
    NODE_FAILED = "node_failed"
    LEASE_LOST = "lease_lost"
    WORKER_LOST = "worker_lost"
    RUN_LOST_AGAIN = "run_lost_again"
    LOOP_BLOCKED = "loop_blocked"
    LOOP_FREED = "loop_freed"
    LOOP_GIVEN_UP = "loop_given_up"
    INVARIANT_BROKEN = "invariant_broken"
    APPEND_FAILED = "append_failed"
    SHARDS_CHANGED = "shards_changed"
    PUBLISH_FAILED = "publish_failed"
    STREAM_OPENED = "stream_opened"
    STREAM_CLOSED = "stream_closed"
    BATCH_ARCHIVED = "batch_archived"
    ARCHIVE_SWEPT = "archive_swept"
    DAY_DROPPED = "day_dropped"
    PARTITION_MADE = "partition_made"
    LOG_RESTORED = "log_restored"
    MIGRATION_WAITING = "migration_waiting"
    INDEX_BUILDING = "index_building"
    ARCHIVE_FAILED = "archive_failed"
    ARCHIVE_OFF = "archive_off"
    CONTENT_STORE_FAILED = "content_store_failed"
    ARTIFACT_ERASED = "artifact_erased"
    PART_ERASED = "part_erased"
    STATE_ERASED = "state_erased"
    DATABASE_UNAVAILABLE = "database_unavailable"
    DATABASE_RECOVERED = "database_recovered"
    BUS_UNAVAILABLE = "bus_unavailable"
    BUS_RECOVERED = "bus_recovered"
    BUS_MESSAGE_REFUSED = "bus_message_refused"
    SPAN_EXPORT_FAILING = "span_export_failing"
    SPAN_EXPORT_RECOVERED = "span_export_recovered"
    EXPOSED = "exposed"
    ACCESS_REFUSED = "access_refused"
    CREDENTIALS_UNREADABLE = "credentials_unreadable"
    CERTIFICATE_LOADED = "certificate_loaded"
    TASK_FAILED = "task_failed"
    REQUEST_FAILED = "request_failed"
    LIBRARY = "library"
    LINES_DROPPED = "lines_dropped"
    SETTING_IGNORED = "setting_ignored"
    EVENTS_INSERTED = "metric.events_inserted"
    EVENTS_PUBLISHED = "metric.events_published"


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """A logger for a module. `log.info(LogEvent.RUN_STARTED, run_id=..., agent=...)`; a filtered line is < 1 us."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger())


def configure_logging(
    level: str = DEFAULTS.log_level,
    format: LogFormat = DEFAULTS.log_format,  # noqa: A002  # the setting's name
    *,
    stream: IO[str] | None = None,
    dropped: Callable[[], object] | None = None,
) -> None:
    """Sends this process's lines, and those of its libraries, of at least `level` to `stream` (stdout unless given).

    A line that cannot be written (the reader is gone, the disk is full) is dropped and `dropped` called, or whoever
    `count_dropped_lines` named: logging never fails the work. Loggers keep the configuration of their first use, so
    call this once, before any.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    out = _Sink(stream if stream is not None else sys.stdout, dropped or count_dropped_line)
    if isinstance(out.raw, LineWriter) and threshold <= logging.WARNING:
        encode = _encoded_line if format == "json" else lambda *line: f"{_console_line(None, *line)}\n".encode()
        out.raw.gap = lambda lost: encode("warning", {"event": LogEvent.LINES_DROPPED, "lines": lost})
    structlog.configure(
        processors=[_console_line],
        wrapper_class=_json_logger(threshold) if format == "json" else structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: out,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_LibraryHandler()]
    # Libraries' debug lines are about themselves, and some of them print what they were given.
    root.setLevel(max(threshold, logging.INFO))
    # Its failures are one line per batch; runwire_telemetry_dropped_total and span_export_failing tell of them.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


@contextmanager
def logging_kept() -> Iterator[None]:
    """Undoes at its end what is done inside to the configuration of logging: user code may bring one of its own."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    configured = structlog.get_config()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
        structlog.configure(**configured)


def count_dropped_lines(counter: Callable[[], object]) -> None:
    """Has `counter` called for every line dropped from now on: logging starts before there is anything that counts."""
    _counter[0] = counter


def count_dropped_line() -> None:
    """Counts a line dropped, by the counter that `count_dropped_lines` named."""
    _counter[0]()


_counter: list[Callable[[], object]] = [lambda: None]


class _Sink:
    """structlog's innermost logger: a line at a time, flushed, and never an error."""

    def __init__(self, stream: IO[str], dropped: Callable[[], object]) -> None:
        self._stream = stream
        # Bytes go past the text layer where there is one beneath: decoding and encoding them again says nothing new.
        self.raw: IO[bytes] | None = getattr(stream, "buffer", None)
        self._dropped = dropped

    def msg(self, line: str | bytes) -> None:
        try:
            if isinstance(line, str):
                self._stream.write(line + "\n")
                self._stream.flush()
            elif self.raw is not None:
                self.raw.write(line)
                self.raw.flush()
            else:
                self._stream.write(line.decode())
                self._stream.flush()
        except (OSError, ValueError):
            self._dropped()

    debug = info = warning = error = critical = exception = log = msg


class _LibraryHandler(logging.Handler):
    """Logs messages of libraries: the first line of the message's template, never its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        # A message that is an object, an exception for one, has nothing but its text to say.
        first_line = record.msg.partition("\n")[0] if type(record.msg) is str else class_name(type(record.msg))
        structlog.get_logger().log(
            record.levelno,
            LogEvent.LIBRARY,
            logger=record.name,
            message=first_line,
            exc_info=record.exc_info or None,
        )


class _Now:
    """The time of day in UTC as ISO 8601, to the microsecond. Only the first line of a second pays for its date."""

    def __init__(self) -> None:
        self._second = (0, "")

    def __call__(self) -> str:
        second, us = divmod(time.time_ns() // 1000, 1_000_000)
        known, text = self._second
        if second != known:
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (second, text)
        return f"{text}.{us:06d}Z"


_now = _Now()


def _facts(level: str, event: str | None, fields: EventDict) -> EventDict:
    """`ts`, `level` and `event` first: that is how a person reads a line. Inside a span, its ids are last."""
    line = {"ts": _now(), "level": level, "event": event, **fields}
    if "exc_info" in fields:
        _add_error(line)
    if context := otel_context.get_current():
        at = trace.get_current_span(context).get_span_context()
        if at.is_valid:
            line.setdefault("trace_id", f"{at.trace_id:032x}")
            line.setdefault("span_id", f"{at.span_id:016x}")
    return line


def _json_logger(threshold: int) -> type[structlog.typing.FilteringBoundLogger]:
    """structlog's own for the level, with all it does for a line in one step: in its chain it took twice as long."""

    class JsonLogger(structlog.make_filtering_bound_logger(threshold)):  # type: ignore[misc]  # a class made at run time
        def _proxy_to_logger(self, method_name: str, event: str | None = None, **fields: Any) -> None:
            self._logger.msg(_ENCODE(_facts(method_name, event, self._context | fields)) + b"\n")

    def at_once(level: str) -> Callable[..., None]:
        def write(self: JsonLogger, event: str | None = None, **fields: Any) -> None:
            self._logger.msg(_ENCODE(_facts(level, event, self._context | fields if self._context else fields)) + b"\n")

        return write

    for level in ("info", "warning"):  # those that come with the work go past structlog's interpolation
        if logging.getLevelNamesMapping()[level.upper()] >= threshold:
            setattr(JsonLogger, level, at_once(level))
    return JsonLogger


def _encoded_line(level: str, fields: EventDict) -> bytes:
    return _ENCODE(_facts(level, fields.pop("event"), fields)) + b"\n"


def _console_line(logger: WrappedLogger, level: str, fields: EventDict) -> str:
    return _console(logger, level, _facts(level, fields.pop("event"), fields))


def _add_error(fields: EventDict) -> None:
    error = fields.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        fields["error"] = describe_error(error)


def describe_error(error: BaseException, *, causes: int = 5) -> dict[str, Any]:
    """An exception without its text or its locals: type, SQL state if it has one, frames, at most `causes` causes."""
    try:
        return _described(error, causes)
    except BaseException:  # noqa: BLE001  # exceptions of user code may have attributes that raise
        return {"type": class_name(type(error)), "frames": frames_of(error)}


def _described(error: BaseException, causes: int) -> dict[str, Any]:
    module = type(error).__module__
    name = class_name(type(error))
    said: dict[str, Any] = {"type": f"{module}.{name}" if type(module) is str else name}
    if isinstance(sqlstate := getattr(error, "sqlstate", None), str):
        said["sqlstate"] = sqlstate
    said["frames"] = frames_of(error)
    if isinstance(error, BaseExceptionGroup):
        said["errors"] = [describe_error(inner, causes=causes - 1) for inner in error.exceptions[:causes]]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and causes > 0:
        said["cause"] = describe_error(cause, causes=causes - 1)
    return said


_TRACEBACK_OF: Final[Any] = BaseException.__dict__["__traceback__"]


def frames_of(error: BaseException) -> list[str]:
    """Where an exception was raised, outermost first: the innermost `MAX_FRAMES` frames, without any of their text."""
    at: TracebackType | None = _TRACEBACK_OF.__get__(error)
    frames: deque[str] = deque(maxlen=MAX_FRAMES)
    while at is not None:
        code = at.tb_frame.f_code
        frames.append(f"{code.co_filename}:{at.tb_lineno} {code.co_qualname}")
        at = at.tb_next
    return list(frames)


_ENCODE: Final = msgspec.json.Encoder(enc_hook=lambda value: type(value).__qualname__).encode


_console = structlog.dev.ConsoleRenderer(timestamp_key="ts", colors=sys.stdout.isatty())

"""The numbers runwire is watched by: alerts/thresholds.yaml, read and checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

from runwire.errors import ConfigurationError
from runwire.ops import durations

FILE: Final = Path("alerts") / "thresholds.yaml"

Slo = Literal["start", "publish", "append", "deliver", "run"]
Judged = Literal[
    "run_expected", "unclaimed", "unpublished_yet", "node_grace", "external_node", "publisher_silent", "lock_wait"
]
Duration = Annotated[str, Meta(pattern=durations.PATTERN)]
Sentence = Annotated[str, Meta(min_length=10)]
_LINK: Final = r"^https?://[^#\s]+[^#/\s]$"
Link = Annotated[str, Meta(pattern=_LINK)]


class Severity(StrEnum):
    """`page` wakes a person; the others are tickets."""

    WARNING = "warning"
    CRITICAL = "critical"
    PAGE = "page"


class Unit(StrEnum):
    COUNT = "count"
    EVENTS = "events"
    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MINUTES = "minutes"
    DAYS = "days"
    BYTES = "bytes"
    GIBIBYTES = "gibibytes"
    RATIO = "ratio"
    PERCENT = "percent"


_SECONDS_IN: Final = {Unit.SECONDS: 1.0, Unit.MILLISECONDS: 0.001, Unit.MINUTES: 60.0, Unit.DAYS: 86400.0}
_BYTES_IN: Final = {Unit.BYTES: 1.0, Unit.GIBIBYTES: 1024.0**3}
_SHOWN_IN: Final = {
    Unit.SECONDS: frozenset(_SECONDS_IN),
    Unit.BYTES: frozenset(_BYTES_IN),
    Unit.RATIO: frozenset({Unit.PERCENT}),
}
_SHORT: Final = {
    Unit.COUNT: "",
    Unit.EVENTS: " events",
    Unit.SECONDS: " s",
    Unit.MILLISECONDS: " ms",
    Unit.MINUTES: " min",
    Unit.DAYS: " days",
    Unit.BYTES: " bytes",
    Unit.GIBIBYTES: " GiB",
    Unit.RATIO: "",
    Unit.PERCENT: " %",
}


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the file. An unused key is an error, because an unused number misleads."""


class AlertLinks(Strict, frozen=True):
    runbook: Link
    webhook: Link


class Follows(Strict, frozen=True):
    """The limit follows a setting of the service: `times` its value and `plus` more. It is never below the level's
    value, nor above `at_most`.
    """

    setting: Annotated[str, Meta(pattern="^RUNWIRE_[A-Z_]+$")]
    times: Annotated[float, Meta(gt=0)] = 1.0
    plus: Annotated[float, Meta(ge=0)] = 0.0
    at_most: Annotated[float, Meta(gt=0)] | None = None


class Level(Strict, frozen=True, rename={"for_": "for"}):
    """Fires when the value measured over `window` is above `value` and stays so for `for_`. `at_once`: no grouping.

    `at_least`: with fewer observations in the window, the level says nothing. `rate_at_least`: the rate per second by
    which work becomes seconds is at least this.
    """

    value: Annotated[float, Meta(ge=0)]
    why: Sentence
    window: Duration | None = None
    for_: Duration = "0s"
    at_once: bool = False
    at_least: Annotated[int, Meta(ge=1)] | None = None
    rate_at_least: Annotated[float, Meta(gt=0)] | None = None
    follows: Follows | None = None


class Threshold(Strict, frozen=True):
    what: Annotated[str, Meta(min_length=3)]
    unit: Unit
    levels: Annotated[dict[Severity, Level], Meta(min_length=1)]
    page_at_once: Level | None = None
    """A second level of `page`, above the first, that waits for nothing."""
    again_above: tuple[float, ...] = ()
    """Higher values of `page`, at each of which the alert is told again."""
    shown_in: Unit | None = None
    quantile: Annotated[float, Meta(gt=0, lt=1)] | None = None
    scales: bool = False

    def title(self) -> str:
        """`what`, with the window of its levels filled in."""
        windows = {level.window for level in self.levels.values() if level.window is not None}
        return self.what.replace("{window}", " or ".join(durations.spoken(window) for window in sorted(windows)))

    def said(self, severity: Severity) -> str:
        """The level in words, e.g. `p95 > 100 ms for 2 min`; empty where there is none."""
        level = self.levels.get(severity)
        if level is None:
            return ""
        words = f"> {amount(level.value, self.unit, self.shown_in)}{self._followed(level.follows)}"
        if self.quantile is not None:
            words = f"p{self.quantile * 100:g} {words}"
        if durations.seconds(level.for_):
            words = f"{words} for {durations.spoken(level.for_)}"
            if severity is Severity.PAGE and self.page_at_once is not None:
                words += f", or > {self.said_at_once()} at once"
            return words
        if level.at_once:
            return f"{words}, at once"
        if level.window is not None and "{window}" not in self.what:
            return f"{words} over {durations.spoken(level.window)}"
        return words

    def _followed(self, follows: Follows | None) -> str:
        if follows is None:
            return ""
        times = "" if follows.times == 1 else f"{follows.times:g} x "
        plus = "" if not follows.plus else f" + {amount(follows.plus, self.unit, self.shown_in)}"
        return f", or {times}`{follows.setting}`{plus}"

    def said_at_once(self) -> str:
        """The second level of `page` with its unit, e.g. `15 s`; empty where there is none."""
        return "" if self.page_at_once is None else amount(self.page_at_once.value, self.unit, self.shown_in)


class Judgement(Strict, frozen=True):
    """Seconds after which the service itself treats something as a fault."""

    what: Annotated[str, Meta(min_length=3)]
    value: Annotated[float, Meta(gt=0)]
    why: Sentence


class Objective(Strict, frozen=True):
    what: Annotated[str, Meta(min_length=3)]
    objective: Annotated[float, Meta(gt=0, lt=1)]
    within_s: Annotated[float, Meta(gt=0)] | None = None
    scales: bool = False

    def title(self) -> str:
        return self.what.replace("{within}", said_seconds(self.within_s or 0))


class BurnPair(Strict, frozen=True):
    factor: Annotated[float, Meta(gt=0)]
    long: Duration
    short: Duration


class BurnRate(Strict, frozen=True):
    """`at_least`: with fewer bad events in the long window nobody is told, however few events there were."""

    severity: Severity
    why: Sentence
    at_least: Annotated[int, Meta(ge=1)]
    pairs: Annotated[tuple[BurnPair, ...], Meta(min_length=1)]


class Slos(Strict, frozen=True):
    window: Duration
    objectives: dict[Slo, Objective]
    burn_rates: dict[Literal["fast", "slow"], BurnRate]


class Rhythm(Strict, frozen=True):
    wait: Duration
    interval: Duration
    repeat: Duration


class Thresholds(Strict, frozen=True):
    """Everything in the file, at a time scale: 1.0 as written, 60.0 a minute of it in a second."""

    links: AlertLinks
    thresholds: Annotated[dict[str, Threshold], Meta(min_length=1)]
    watching: dict[str, Threshold]
    shown: dict[str, Threshold]
    diagnosis: dict[Judged, Judgement]
    slos: Slos
    routing: dict[Literal["page", "at_once", "ticket", "watchdog"], Rhythm]
    scale: Annotated[float, Meta(gt=0)] = 1.0

    def named(self, name: str) -> Threshold:
        """The threshold of that name, whichever part has it. Raises ConfigurationError without one."""
        found = self.thresholds.get(name) or self.watching.get(name) or self.shown.get(name)
        if found is None:
            raise ConfigurationError((f"{FILE}: threshold {name!r} is missing, and a rule or panel is made from it",))
        return found

    def level(self, name: str, severity: Severity) -> Level:
        found = self.named(name).levels.get(severity)
        if found is None:
            raise ConfigurationError((f"{FILE}: {name}.levels lacks {severity.value!r}, and an alert is made from it",))
        return found

    def window(self, name: str, severity: Severity) -> str:
        """The period over which the level is measured, at scale 1. Raises ConfigurationError when the file does not
        say.
        """
        window = self.level(name, severity).window
        if window is None:
            raise ConfigurationError((f"{FILE}: {name}.levels.{severity.value} needs a window",))
        return window

    def windows(self, name: str) -> list[str]:
        """The periods that the levels of a threshold are measured over, at scale 1, each once."""
        return list(dict.fromkeys(self.window(name, severity) for severity in self.named(name).levels))

    def at_least(self, name: str, severity: Severity) -> float | None:
        """The fewest observations in the window by which the level is judged, at this scale."""
        fewest = self.level(name, severity).at_least
        return None if fewest is None else fewest / self.scale

    def rate_at_least(self, name: str, severity: Severity) -> float:
        """The least rate per second by which a level in seconds is measured, at any scale. Raises ConfigurationError
        when the file does not say.
        """
        rate = self.level(name, severity).rate_at_least
        if rate is None:
            raise ConfigurationError((f"{FILE}: {name}.levels.{severity.value} needs `rate_at_least`",))
        return rate

    def within_s(self, slo: Slo) -> float | None:
        """The limit of an objective, at this scale; None where it has none."""
        objective = self.slos.objectives[slo]
        if objective.within_s is None or not objective.scales:
            return objective.within_s
        return objective.within_s / self.scale

    def value(self, name: str, severity: Severity) -> float:
        """The number that a rule compares with, at this scale."""
        value = self.level(name, severity).value
        return value / self.scale if self.named(name).scales else value

    def following(self, name: str, severity: Severity, *, setting: str) -> str:
        """An expression for the limit of a level that follows a setting, which the series `setting` has in seconds."""
        level, scale = self.level(name, severity), self.scale if self.named(name).scales else 1.0
        follows = level.follows
        if follows is None:
            raise ConfigurationError((f"{FILE}: {name}.levels.{severity.value} needs `follows`",))
        limit = setting if follows.times == 1 else f"{follows.times:g} * {setting}"
        limit = f"{limit} + {follows.plus / scale:.10g}" if follows.plus else limit
        if follows.at_most is None:
            return f"clamp_min({limit}, {level.value / scale:.10g})"
        return f"clamp({limit}, {level.value / scale:.10g}, {follows.at_most / scale:.10g})"

    def duration(self, text: str) -> str:
        """A duration at this scale."""
        return durations.scaled(text, self.scale)


def load(root: Path | None = None, *, scale: float = 1.0, runbook: str | None = None) -> Thresholds:
    """The file under `root`, or without one that of the installed package. `runbook` replaces the runbook's URL.

    Raises ConfigurationError that says where in the file something is wrong.
    """
    try:
        raw = yaml.safe_load(_text(root))
    except yaml.YAMLError as error:
        raise ConfigurationError((f"{FILE}: {' '.join(str(error).split())}",)) from None
    if runbook is not None and isinstance(raw, Mapping):
        if re.match(_LINK, runbook) is None:
            raise ConfigurationError((f"--runbook-url: {runbook!r} is no URL of a page like https://wiki/runs",))
        raw = {**raw, "links": {**raw["links"], "runbook": runbook}}
    try:
        read = msgspec.convert({**raw, "scale": scale} if isinstance(raw, Mapping) else raw, Thresholds)
    except msgspec.ValidationError as error:
        raise ConfigurationError((f"{FILE}: {error}",)) from None
    if problems := tuple(f"{FILE}: {problem}" for problem in _inconsistent(read)):
        raise ConfigurationError(problems)
    return read


def _text(root: Path | None) -> str:
    path: Traversable = root / FILE if root is not None else _packaged()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError((f"{path} is missing: run this in the source tree, or name it with --root",)) from None


def _packaged() -> Traversable:
    """The file in the installed package, or, in a source tree, beside the sources."""
    installed = files("runwire.ops") / FILE.name
    return installed if installed.is_file() else Path(__file__).resolve().parents[3] / FILE


def amount(value: float, unit: Unit, shown_in: Unit | None = None) -> str:
    """A value with its unit, in the unit people say it in: `100 ms`, `10 min`, `31 days`."""
    shown = shown_in or unit
    if unit is Unit.SECONDS:
        value = value / _SECONDS_IN[shown]
    elif unit is Unit.BYTES:
        value = value / _BYTES_IN[shown]
    elif shown is Unit.PERCENT:
        value = value * 100
    return f"{value:.10g}{_SHORT[shown]}"


def said_seconds(value: float) -> str:
    """`0.5` is `500 ms`, `600` is `10 min`."""
    if value < 1:
        return amount(value, Unit.SECONDS, Unit.MILLISECONDS)
    return amount(value, Unit.SECONDS, Unit.MINUTES if value >= 120 else None)


def _inconsistent(read: Thresholds) -> Iterator[str]:
    """Rules that the types cannot express."""
    named = [*read.thresholds.items(), *read.watching.items(), *read.shown.items()]
    for name, threshold in named:
        yield from (f"{name}: {problem}" for problem in _threshold_problems(threshold))
    if shared := sorted(name for name, count in Counter(name for name, _ in named).items() if count > 1):
        yield f"{', '.join(shared)}: named twice"
    for speed, burn in read.slos.burn_rates.items():
        for pair in burn.pairs:
            if durations.seconds(pair.short) >= durations.seconds(pair.long):
                yield f"slos.burn_rates.{speed}: the short window {pair.short} must be shorter than {pair.long}"
    for name, objective in read.slos.objectives.items():
        if name not in ("start", "append") and objective.within_s is None:
            yield f"slos.objectives.{name}: within_s is missing"
    for where, present, wanted in (
        ("diagnosis", set(read.diagnosis), set(get_args(Judged))),
        ("slos.objectives", set(read.slos.objectives), {"start", "publish", "append", "deliver", "run"}),
        ("slos.burn_rates", set(read.slos.burn_rates), {"fast", "slow"}),
        ("routing", set(read.routing), {"page", "at_once", "ticket", "watchdog"}),
    ):
        if missing := sorted(wanted - present):
            yield f"{where}: {', '.join(missing)} missing"


def _threshold_problems(threshold: Threshold) -> Iterator[str]:
    levels = [threshold.levels[severity] for severity in Severity if severity in threshold.levels]
    if (second := threshold.page_at_once) is not None:
        levels.append(second)
        first = threshold.levels.get(Severity.PAGE)
        if first is None or not durations.seconds(first.for_):
            yield "page_at_once needs a level `page` that waits"
        if durations.seconds(second.for_) or second.window is not None:
            yield "page_at_once waits for nothing: it has neither `for` nor `window`"
    values = [*(level.value for level in levels), *threshold.again_above]
    if threshold.again_above and Severity.PAGE not in threshold.levels:
        yield "again_above needs a level `page`"
    if values != sorted(set(values)):
        yield f"each level must be above the one before it, not {', '.join(f'{value:g}' for value in values)}"
    if threshold.unit not in (Unit.COUNT, Unit.EVENTS, Unit.SECONDS, Unit.BYTES, Unit.RATIO):
        yield f"unit is a base unit (count, events, seconds, bytes, ratio), not {threshold.unit.value}; see shown_in"
    elif threshold.shown_in is not None and threshold.shown_in not in _SHOWN_IN.get(threshold.unit, ()):
        yield f"shown_in is for seconds, bytes and ratios, not {threshold.shown_in.value} for {threshold.unit.value}"
    if "{window}" in threshold.what and not any(level.window for level in levels):
        yield "`what` names a window, and no level has one"

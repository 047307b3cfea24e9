"""Rules and dashboards for one deployment among several in a Prometheus: its labels, its selector, its severities."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runwire.errors import ConfigurationError
from runwire.ops.promql import Matcher, matchers_of, rewritten
from runwire.ops.rules import JOBS
from runwire.ops.thresholds import Severity

_LABEL: Final = re.compile(r"[a-z_][A-Za-z0-9_]{0,62}")
_OWN: Final = frozenset(
    {"job", "instance", "le", "slo", "agent", "node", "role", "invariant", "limit", "level", "severity", "runbook"}
    | {"alertname", "alertstate", "operation", "signal", "reason", "code", "step", "outcome", "quantile"}
)
"""Labels that rules use in their own way."""
_TICKET: Final = "ticket"
_TICKETS: Final = (Severity.WARNING, Severity.CRITICAL)
_SEVERITY: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_VALUES_OF: Final = re.compile(r"label_values\((?P<series>.*), (?P<label>\w+)\)")
_ALERTS: Final = "ALERTS"


@dataclass(frozen=True, slots=True)
class Scope:
    """`by`: labels, beside `job`, that tell deployments apart. `selector`: matchers of this one. `severities`: names by
    ours. The default changes nothing.
    """

    by: tuple[str, ...] = ()
    selector: tuple[Matcher, ...] = ()
    severities: Mapping[str, str] = field(default_factory=dict)

    def rules(self, document: dict[str, Any]) -> dict[str, Any]:
        """A rule file for this deployment."""
        if self == Scope():
            return document
        for group in document["groups"]:
            group["rules"] = [self._rule(rule) for rule in group["rules"]]
        return document

    def routing(self, document: dict[str, Any]) -> dict[str, Any]:
        """Alertmanager's configuration, for alerts of those rules."""
        route = document["route"]
        route["group_by"] = [*route["group_by"], *self.by]
        for one in route["routes"]:
            one["matchers"] = [self._renamed(matcher) for matcher in one["matchers"]]
        for rule in document["inhibit_rules"]:
            rule["equal"] = [*rule["equal"], *self.by]
        return document

    def dashboard(self, text: str) -> str:
        """Grafana's JSON, with a variable for each label."""
        board = json.loads(text)
        for holder in _holders(board):
            holder["expr"] = self._renamed(self._asked(holder["expr"]))
        variables = board["templating"]["list"]
        job = next(one for one in variables if one["name"] == "job")
        first = variables.index(job)
        for one in variables:
            if one["type"] == "query":
                one["query"]["query"] = self._values(one["query"]["query"])
        chosen: list[Matcher] = []
        for offset, label in enumerate(self.by):
            query = f"label_values({_selected('runwire_build_info', [*self.selector, *chosen])}, {label})"
            variable = {**job, "name": label, "label": label.capitalize(), "query": {"query": query, "refId": label}}
            variables.insert(first + offset, variable)
            chosen.append(Matcher(label, "=~", f'"${label}"'))
        for panel in board["panels"]:
            self._recolour(panel)
        return json.dumps(board, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def _rule(self, rule: dict[str, Any]) -> dict[str, Any]:
        changed = {**rule, "expr": rewritten(rule["expr"], selector=self._matchers, labels=self._labels)}
        if "alert" not in rule:
            return changed
        severity = rule["labels"]["severity"]
        renamed = self.severities.get(severity, severity)
        changed["labels"] = {**rule["labels"], "severity": renamed}
        if self.by:
            whole = "/".join(f"{{{{ $labels.{label} }}}}" for label in (*self.by, "job"))
            said = rule["annotations"]["description"].replace("{{ $labels.job }}", whole)
            changed["annotations"] = {**rule["annotations"], "description": said}
        return changed

    def _matchers(self, _name: str, given: tuple[Matcher, ...]) -> Sequence[Matcher]:
        named = {one.label for one in self.selector}
        # That of the rules finds every runwire; one that the caller names takes its place.
        return [*(one for one in given if str(one) != JOBS or "job" not in named), *self.selector]

    def _labels(self, given: tuple[str, ...]) -> Sequence[str]:
        return [*given, *(label for label in self.by if label not in given)]

    def _asked(self, expr: str) -> str:
        """A query of a dashboard: of what is chosen. Sums over everything stay that, those by job are by label, too."""

        def matchers(name: str, given: tuple[Matcher, ...]) -> Sequence[Matcher]:
            # Alerts about the watching itself have no labels of a deployment.
            end = "|" if name == _ALERTS else ""
            own = [] if name == _ALERTS else self.selector
            return [*given, *own, *(Matcher(label, "=~", f'"${label}{end}"') for label in self.by)]

        return rewritten(expr, selector=matchers, labels=lambda given: self._labels(given) if "job" in given else given)

    def _values(self, query: str) -> str:
        found = _VALUES_OF.fullmatch(query)
        return query if found is None else f"label_values({self._asked(found['series'])}, {found['label']})"

    def _renamed(self, text: str) -> str:
        """`severity="page"` by its new name."""
        for severity, name in self.severities.items():
            if f'severity="{severity}"' in text:
                return text.replace(f'severity="{severity}"', f'severity="{name}"')
        return text

    def _recolour(self, panel: dict[str, Any]) -> None:
        """A table colours the severities by their names."""
        for override in panel.get("fieldConfig", {}).get("overrides", ()):
            if override["matcher"].get("options") == "severity":
                for one in override["properties"]:
                    if one["id"] == "mappings":
                        options = one["value"][0]["options"]
                        one["value"][0]["options"] = {
                            self.severities.get(name, name): look for name, look in options.items()
                        }


def scope_of(*, by: str | None, selector: str | None, severity_map: str | None) -> Scope:
    """The scope that options of the command line name. Raises ConfigurationError with all that is wrong with them."""
    problems: list[str] = []
    labels = tuple(name.strip() for name in (by or "").split(",") if name.strip())
    problems += [f"--by: {name!r} cannot be a label that tells deployments apart" for name in labels if not _fits(name)]
    try:
        matchers = matchers_of(selector or "")
    except ValueError as error:
        matchers = ()
        problems.append(f"--selector: {error}")
    lost = sorted({one.label for one in matchers} - {"job", *labels})
    if lost:
        problems.append(f"--selector: name {', '.join(lost)} in --by, too, or rules of two deployments mix")
    severities, wrong = _severities(severity_map or "")
    problems += wrong
    if problems:
        raise ConfigurationError(tuple(problems))
    return Scope(labels, matchers, severities)


def _fits(label: str) -> bool:
    return _LABEL.fullmatch(label) is not None and label not in _OWN and not label.startswith("__")


def _severities(text: str) -> tuple[dict[str, str], list[str]]:
    """The names by ours, and what is wrong. `ticket` stands for every severity that wakes nobody."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        ours, equals, theirs = (word.strip() for word in pair.partition("="))
        known = ours in (_TICKET, *Severity)
        if not (equals and known and _SEVERITY.fullmatch(theirs)):
            return {}, [
                f"--severity-map: {pair!r} is not one of page, critical, warning or ticket with a name: page=P1"
            ]
        for severity in _TICKETS if ours == _TICKET else (Severity(ours),):
            found[severity.value] = theirs
    page = found.get(Severity.PAGE.value, Severity.PAGE.value)
    if any(found.get(severity.value, severity.value) == page for severity in _TICKETS):
        return {}, [f"--severity-map: {page!r} would be a page and a ticket; map ticket, too, e.g. ticket=warning"]
    return found, []


def _selected(name: str, matchers: Sequence[Matcher]) -> str:
    return f"{name}{{{', '.join(map(str, matchers))}}}" if matchers else name


def _holders(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything with a query: targets of panels, and annotations."""
    for panel in board["panels"]:
        yield from (target for target in panel.get("targets", ()) if "expr" in target)
    yield from (one for one in board["annotations"]["list"] if "expr" in one)

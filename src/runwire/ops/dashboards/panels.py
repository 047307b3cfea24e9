"""Panels in the house style: one look, the thresholds of the alerts, and a way to the runbook from each limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.timeseries import Options as TimeSeriesOptions

from runwire.ops.thresholds import Severity, Thresholds

DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
JOB: Final = 'job=~"$job"'
"""For what the observer and the recording rules say: it belongs to a job, whichever instance says it."""
INSTANCE: Final = 'job=~"$job", instance=~"$instance"'

ROOMY: Final = 12
"""Columns of the grid, which has 24."""

GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"
BLUE, PURPLE, LIGHT, GREY = "blue", "purple", "super-light-blue", "#8e8e8e"
LEVEL_COLORS: Final = {Severity.WARNING: YELLOW, Severity.CRITICAL: ORANGE, Severity.PAGE: RED}
Steps = Sequence[tuple[float | None, str]]
_JUST: Final = 1e-6
"""Grafana colours from a step on, alerts fire above it."""


@dataclass(frozen=True, slots=True)
class Query:
    """`legend` is what the series is called; where it has no `{{label}}`, `color` may be given to it."""

    expr: str
    legend: str
    color: str | None = None
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """Threshold lines of a panel, and where in the runbook they are explained."""

    steps: Steps
    runbook: str

    @staticmethod
    def of(thresholds: Thresholds, name: str, *, runbook: str) -> Limit:
        levels = thresholds.named(name).levels
        steps = [(thresholds.value(name, s), LEVEL_COLORS[s]) for s in Severity if s in levels]
        return Limit(steps, runbook)

    @staticmethod
    def above(thresholds: Thresholds, name: str, *, runbook: str, usual: float = 0) -> Limit:
        """For limits that are themselves well, such as 0: coloured from just above. `usual` is added to each."""
        limit = Limit.of(thresholds, name, runbook=runbook)
        return Limit([((value or 0) + usual + _JUST, color) for value, color in limit.steps], runbook)

    @staticmethod
    def left(thresholds: Thresholds, name: str, *, runbook: str) -> Limit:
        """For a share of which the thresholds say how much may be spent: green while little is, worse as less is left.
        Below the lowest step it has the worst level's colour.
        """
        levels = [severity for severity in reversed(Severity) if severity in thresholds.named(name).levels]
        colors = [*(LEVEL_COLORS[severity] for severity in levels[1:]), GREEN]
        left = (1 - thresholds.value(name, severity) for severity in levels)
        return Limit(list(zip(left, colors, strict=True)), runbook)

    @staticmethod
    def any(color: str, *, runbook: str) -> Limit:
        """Coloured where there is one at all, which is no threshold."""
        return Limit(((1, color),), runbook)


def rate(metric: str, *, by: str = "", where: str = "") -> str:
    """Per second, summed over the chosen instances."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{_and(INSTANCE, where)}}}[$__rate_interval]))"


def quantile(q: float, histogram: str, *, by: str = "", where: str = "") -> str:
    grouped = ", ".join(filter(None, (by, "le")))
    selected = f"{histogram}_bucket{{{_and(INSTANCE, where)}}}"
    return f"histogram_quantile({q}, sum by ({grouped}) (rate({selected}[$__rate_interval])))"


def percentiles(histogram: str) -> list[Query]:
    """p50, p95 and p99, always in the same colours."""
    colors = {0.5: LIGHT, 0.95: BLUE, 0.99: PURPLE}
    return [Query(quantile(q, histogram), f"p{q * 100:.0f}", color, exemplars=True) for q, color in colors.items()]


def means(histogram: str, *, by: str = "") -> str:
    """Shows the distribution where percentiles mislead: buckets are wide, or all values lie below the first."""
    return f"{rate(f'{histogram}_sum', by=by)} / ({rate(f'{histogram}_count', by=by)} > 0)"


def mean(histogram: str) -> Query:
    return Query(means(histogram), "mean", GREEN)


def lines(
    title: str,
    about: str,
    queries: Sequence[Query],
    *,
    unit: str,
    limit: Limit | None = None,
    log: bool = False,
    stacked: bool = False,
    many: bool = False,
    rare: bool = False,
    decimals: int | None = None,
) -> model.Panel:
    """A time series, on an axis that reaches its limits. `log` suits latencies, whose limits lie decades above what is
    usual; `many` is for series that are many, or as many as there are processes; `rare` for what is 0 as a rule.
    """
    alone = len(queries) == 1 and not many
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(DATASOURCE)
        .line_width(1)
        .fill_opacity(25 if stacked else 12 if alone else 0)
        .gradient_mode(looks.GraphGradientMode.NONE if stacked else looks.GraphGradientMode.OPACITY)
        .show_points(looks.VisibilityMode.NEVER)
        .span_nulls(False)  # noqa: FBT003  # a builder's setter
        .legend(_legend(many=many))
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    )
    for ref, query in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(_target(query, ref))
        if query.color is not None:
            panel = panel.override_by_name(query.legend, [_fixed(query.color)])
    if log:
        panel = panel.scale_distribution(
            common.ScaleDistributionConfig().type(looks.ScaleDistribution.LOG).log(10)
        ).axis_soft_min(0.001)
        panel = panel.axis_soft_max(max((value or 0 for value, _ in limit.steps), default=1) if limit else 1)
    else:
        panel = panel.min(0)
        if limit is not None:
            panel = panel.axis_soft_max(1.05 * max(value or 0 for value, _ in limit.steps))
        elif rare:
            panel = panel.axis_soft_max(0.2)
    if decimals is not None:
        panel = panel.decimals(decimals)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if limit is not None:
        panel = (
            panel.thresholds(_thresholds([(None, "transparent"), *limit.steps]))
            .thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.DASHED))
            .links([_runbook(limit)])
        )
    return panel.build()


def number(
    title: str,
    about: str,
    expr: str,
    *,
    unit: str,
    limit: Limit | None = None,
    base: str = GREEN,
    decimals: int | None = None,
) -> model.Panel:
    """The value of now, large and coloured by its limit; how it came to be, a graph below shows."""
    panel = (
        stat.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(DATASOURCE)
        .with_target(_target(Query(expr, title), "A"))
        .graph_mode(looks.BigValueGraphMode.NONE)
        .color_mode(looks.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))  # noqa: FBT003  # a setter
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds([(None, base), *(limit.steps if limit is not None else ())]))
        .mappings([_special(model.SpecialValueMatch.NULL_AND_NAN, "-")])
        .no_value("-")
        .min(0)
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    if limit is not None:
        panel = panel.links([_runbook(limit)])
    return panel.build()


def bars(title: str, about: str, query: Query, *, unit: str, steps: Steps, highest: float) -> model.Panel:
    """One bar for each series, as of now."""
    return (
        bargauge.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(DATASOURCE)
        .with_target(_target(query, "A").instant())
        .orientation(looks.VizOrientation.HORIZONTAL)
        .display_mode(looks.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))  # noqa: FBT003  # a setter
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(steps))
        .min(0)
        .max(highest)
        .decimals(1)
        .build()
    )


def alerts_table(title: str, about: str, expr: str, *, runbook: str) -> model.Panel:
    """The alerts that fire, worst first, each with a link to its heading in the runbook."""
    severities: dict[str, model.ValueMappingResult] = {
        severity.value: model.ValueMappingResult(color=LEVEL_COLORS[severity], index=index)
        for index, severity in enumerate(reversed(Severity))
    }
    shown = ["severity", "alertname", "job", "instance", "invariant", "runbook"]
    return (
        table.Panel()
        .title(title)
        .description(about)
        .unit("short")
        .datasource(DATASOURCE)
        .with_target(_target(Query(expr, ""), "A").instant().format(_TABLE))
        .with_transformation(
            model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": shown}})
        )
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "indexByName": {name: index for index, name in enumerate(shown)},
                    "renameByName": {"alertname": "alert"},
                },
            )
        )
        # Empty cells would repeat the message of an empty table.
        .override_by_regexp("job|instance|invariant", [model.DynamicConfigValue("noValue", "-")])
        .override_by_name(
            "severity",
            [
                model.DynamicConfigValue("mappings", [model.ValueMap(options=severities)]),
                model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
                model.DynamicConfigValue("custom.width", 90),
            ],
        )
        .override_by_name(
            "alert",
            [
                model.DynamicConfigValue("custom.width", 190),
                model.DynamicConfigValue(
                    "links",
                    [{"title": "Runbook", "url": f"{runbook}#${{__data.fields.runbook}}", "targetBlank": True}],
                ),
            ],
        )
        .override_by_name(
            "runbook",
            [
                model.DynamicConfigValue("custom.hideFrom", {"viz": True}),
                model.DynamicConfigValue("custom.hidden", value=True),  # its name up to Grafana 12.1
            ],
        )
        .sort_by([common.TableSortByFieldState().display_name("severity").desc(False)])  # noqa: FBT003  # a setter
        .no_value("Nothing fires")
        .build()
    )


def fitted(panel: model.Panel, *, width: int) -> model.Panel:
    """The panel as it reads at that width, in columns of the grid: a narrow one has no room for two values of each."""
    if isinstance(panel.options, TimeSeriesOptions) and width < ROOMY:
        legend = panel.options.legend
        if legend.display_mode is looks.LegendDisplayMode.LIST:
            legend.calcs = ["lastNotNull"]
    return panel


def coloured(panel: model.Panel, colors: dict[str, str]) -> model.Panel:
    """The panel with the series of these names in these colours."""
    config = panel.field_config or model.FieldConfigSource()
    config.overrides = [*config.overrides, *(_override(name, color) for name, color in colors.items())]
    panel.field_config = config
    return panel


_TABLE: Final = PromQueryFormat.TABLE


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(query.expr)
        .legend_format(query.legend or "__auto")
        .ref_id(ref)
        .range()
    )
    return target.exemplar(True) if query.exemplars else target  # noqa: FBT003  # a builder's setter


def _legend(*, many: bool) -> common.VizLegendOptions:
    """A line of names with their values; of many series a table, with the highest on top."""
    legend = (
        common.VizLegendOptions()
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(True)  # noqa: FBT003  # a builder's setter
        .calcs(["lastNotNull", "max"])
    )
    if not many:
        return legend.display_mode(looks.LegendDisplayMode.LIST)
    legend = legend.display_mode(looks.LegendDisplayMode.TABLE).sort_by("Max")
    return legend.sort_desc(True)  # noqa: FBT003  # a builder's setter


def _override(legend: str, color: str) -> model.DashboardFieldConfigSourceOverrides:
    return model.DashboardFieldConfigSourceOverrides(
        matcher=model.MatcherConfig(id_val="byName", options=legend), properties=[_fixed(color)]
    )


def _fixed(color: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _runbook(limit: Limit) -> build.DashboardLink:
    return build.DashboardLink("Runbook").url(limit.runbook).type(model.DashboardLinkType.LINK).target_blank(True)  # noqa: FBT003  # a builder's setter


def _special(match: model.SpecialValueMatch, text: str) -> model.SpecialValueMap:
    return model.SpecialValueMap(
        options=model.DashboardSpecialValueMapOptions(match=match, result=model.ValueMappingResult(text=text))
    )


def _and(*selectors: str) -> str:
    return ", ".join(filter(None, selectors))

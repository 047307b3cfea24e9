// From Prometheus' answers to Grafana's data frames, with the panel's field configuration applied.
import {
  applyFieldOverrides, createDataFrame, FieldConfigOptionsRegistry, FieldType, identityOverrideProcessor,
  thresholdsOverrideProcessor,
} from '@grafana/data';

const STANDARD = ['unit', 'decimals', 'min', 'max', 'displayName', 'color', 'mappings', 'noValue', 'links'];
const LOOK = {
  drawStyle: 'line', lineInterpolation: 'linear', lineWidth: 1, fillOpacity: 0, gradientMode: 'none', barAlignment: 0,
  showPoints: 'auto', pointSize: 5, axisPlacement: 'auto', axisColorMode: 'text', axisBorderShow: false,
  axisGridShow: true, axisLabel: '', insertNulls: false, stacking: { mode: 'none', group: 'A' },
  scaleDistribution: { type: 'linear' }, thresholdsStyle: { mode: 'off' }, hideFrom: { legend: false, tooltip: false, viz: false },
};

// Grafana's application knows each panel's properties; here every property that a dashboard uses is one.
function registry(panel) {
  const item = (id, path, isCustom, process = identityOverrideProcessor) => ({
    id, path, isCustom, name: id, process, shouldApply: () => true, editor: () => null, override: () => null,
  });
  const { defaults = {}, overrides = [] } = panel.fieldConfig;
  const custom = new Set(Object.keys(defaults.custom ?? {}));
  for (const { properties } of overrides) {
    for (const { id } of properties) {
      if (id.startsWith('custom.')) custom.add(id.slice('custom.'.length));
    }
  }
  return new FieldConfigOptionsRegistry(() => [
    ...STANDARD.map((id) => item(id, id, false)),
    item('thresholds', 'thresholds', false, thresholdsOverrideProcessor),
    ...[...custom].map((path) => item(`custom.${path}`, path, true)),
  ]);
}

export function fieldConfig(panel) {
  const given = structuredClone(panel.fieldConfig);
  const defaults = given.defaults ?? {};
  for (const step of defaults.thresholds?.steps ?? []) step.value ??= -Infinity;
  if (panel.type === 'timeseries') defaults.custom = { ...LOOK, ...defaults.custom };
  return { defaults, overrides: given.overrides ?? [] };
}

const number = (text) => (Number.isFinite(Number(text)) ? Number(text) : null);
const named = (legend, labels) =>
  legend === '__auto' ? undefined : legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');

function seriesFrame(target, one, step) {
  const values = one.values ?? [one.value];
  return createDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: values.map(([at]) => at * 1000), config: { interval: step * 1000 } },
      {
        name: 'Value', type: FieldType.number, labels: one.metric, values: values.map(([, text]) => number(text)),
        config: { displayNameFromDS: named(target.legendFormat, one.metric) },
      },
    ],
  });
}

function tableFrame(target, result) {
  const labels = [...new Set(result.flatMap((one) => Object.keys(one.metric)))].sort();
  return createDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: result.map((one) => one.value[0] * 1000) },
      ...labels.map((name) => ({ name, type: FieldType.string, values: result.map((one) => one.metric[name] ?? '') })),
      { name: 'Value', type: FieldType.number, values: result.map((one) => number(one.value[1])) },
    ],
  });
}

export function rawFrames(panel, answers, step) {
  return panel.targets.flatMap((target) => {
    const { result } = answers[target.refId];
    if (target.format === 'table') return [tableFrame(target, result)];
    return result.map((one) => seriesFrame(target, one, step));
  });
}

export function styled(panel, frames, theme) {
  return applyFieldOverrides({
    data: frames, fieldConfig: fieldConfig(panel), fieldConfigRegistry: registry(panel), theme, timeZone: 'utc',
    replaceVariables: (text) => text,
  });
}

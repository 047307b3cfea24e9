// A panel of each kind that the dashboards use, by Grafana's components, as its own panel plugins call them.
import React from 'react';
import { cacheFieldDisplayNames, dateTime, getDisplayValueAlignmentFactors, getFieldDisplayValues, transformDataFrame } from '@grafana/data';
import { BarGauge, BigValue, Icon, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

import { fieldConfig, rawFrames, styled } from './frames.js';
import { addMarks } from './marks.js';

const asIs = (text) => text;

function Lines({ panel, frames, width, height, shown, theme, annotations, exemplars }) {
  const range = { from: dateTime(shown.start * 1000), to: dateTime(shown.end * 1000) };
  return (
    <TimeSeries
      frames={frames} width={width} height={height} timeZone="utc" legend={panel.options.legend}
      timeRange={{ ...range, raw: range }}
    >
      {(builder) => {
        addMarks(builder, { annotations, exemplars, theme });
        return null;
      }}
    </TimeSeries>
  );
}

function displays({ panel, frames, theme, sparkline }) {
  return getFieldDisplayValues({
    data: frames, fieldConfig: fieldConfig(panel), reduceOptions: panel.options.reduceOptions, replaceVariables: asIs,
    sparkline, theme, timeZone: 'utc',
  });
}

function Number({ panel, frames, width, height, theme }) {
  const [{ display, sparkline }] = displays({ panel, frames, theme, sparkline: panel.options.graphMode !== 'none' });
  const { colorMode, graphMode, justifyMode, textMode } = panel.options;
  return (
    <BigValue
      value={display} count={1} sparkline={sparkline} width={width} height={height} theme={theme}
      colorMode={colorMode} graphMode={graphMode} justifyMode={justifyMode} textMode={textMode}
    />
  );
}

function Bars({ panel, frames, width, height, theme }) {
  const { displayMode, orientation, valueMode, showUnfilled, namePlacement = 'auto' } = panel.options;
  return (
    <VizRepeater
      source={panel} width={width} height={height} orientation={orientation} itemSpacing={10} minVizHeight={16}
      maxVizHeight={300} minVizWidth={8}
      getValues={() => displays({ panel, frames, theme, sparkline: false })}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width: w, height: h, alignmentFactors }) => (
        <BarGauge
          value={value.display} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          width={w} height={h} theme={theme} orientation={orientation} displayMode={displayMode}
          valueDisplayMode={valueMode} showUnfilled={showUnfilled} namePlacement={namePlacement} itemSpacing={10}
          alignmentFactors={alignmentFactors}
        />
      )}
    />
  );
}

function Table({ panel, frames, width, height }) {
  const { showHeader, cellHeight, sortBy } = panel.options;
  if (frames[0].length === 0) return <Nothing text={panel.fieldConfig.defaults.noValue} />;
  return (
    <TableNG
      data={frames[0]} width={width} height={height} noHeader={!showHeader} cellHeight={cellHeight} sortBy={sortBy}
      fieldConfig={fieldConfig(panel)} enableVirtualization={false}
    />
  );
}

const Nothing = ({ text }) => <div className="nothing">{text ?? 'No data'}</div>;
const KINDS = { timeseries: Lines, stat: Number, bargauge: Bars, table: Table };

// The frames that a panel shows: answers, transformed as it says, in its style.
export async function framesOf(panel, answers, step, theme) {
  const frames = await transformed(panel, rawFrames(panel, answers, step), theme);
  cacheFieldDisplayNames(frames);
  return frames;
}

async function transformed(panel, raw, theme) {
  if (!panel.transformations?.length) return styled(panel, raw, theme);
  return new Promise((done) => {
    transformDataFrame(panel.transformations, raw, { interpolate: asIs }).subscribe((frames) =>
      done(styled(panel, frames, theme)));
  });
}

const Links = ({ links = [] }) => links.map(({ title, url }) => (
  <PanelChrome.TitleItem key={title} title={title} href={url}>
    <Icon name="external-link-alt" size="md" />
  </PanelChrome.TitleItem>
));

export function Panel({ panel, frames, place, theme, ...rest }) {
  const Kind = KINDS[panel.type];
  const empty = panel.type !== 'stat' && panel.type !== 'table' && frames.length === 0;
  return (
    <div className="panel" style={place}>
      <PanelChrome
        title={panel.title} description={panel.description} width={place.width} height={place.height}
        padding={panel.type === 'table' ? 'none' : 'md'} titleItems={<Links links={panel.links} />}
      >
        {(width, height) =>
          empty ? <Nothing /> : <Kind {...{ panel, frames, width, height, theme }} {...rest} />}
      </PanelChrome>
    </div>
  );
}

// A dashboard as one page: window.drawn says when there is nothing more to come.
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import '@fontsource/roboto-mono/400.css';
import 'uplot/dist/uPlot.min.css';
import './page.css';

import React from 'react';
import { createRoot } from 'react-dom/client';
import { createTheme, standardTransformers, standardTransformersRegistry, ThemeContext } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, Icon } from '@grafana/ui';

import { framesOf, Panel } from './panels.jsx';

const ROW = 30, GAP = 8, COLUMNS = 24;

function placed({ x, y, w, h }, width) {
  const column = (width - GAP * (COLUMNS - 1)) / COLUMNS;
  return {
    left: Math.round(x * (column + GAP)), top: y * (ROW + GAP),
    width: Math.round(w * (column + GAP) - GAP), height: h * (ROW + GAP) - GAP,
  };
}

const Control = ({ icon, label, children }) => (
  <span className="control">
    {label && <span className="label">{label}</span>}
    <span className="value">{icon && <Icon name={icon} size="sm" />}{children}</span>
  </span>
);

function Top({ board, shown }) {
  const minutes = Math.round((shown.end - shown.start) / 60);
  return (
    <header>
      <nav>
        <span>Dashboards</span><Icon name="angle-right" /><b>{board.title}</b>
        <span className="room" />
        <Control icon="clock-nine">Last {minutes} minutes <small>UTC</small></Control>
        <Control icon="sync">{board.refresh}</Control>
      </nav>
      <nav>
        {board.templating.list.filter((one) => !one.hide || one.hide === 0).map((one) => (
          <Control key={one.name} label={one.label}>
            {one.type === 'datasource' ? 'prometheus' : 'All'} <Icon name="angle-down" size="sm" />
          </Control>
        ))}
        <Control label={board.annotations.list[0].name}><i className="switch" /></Control>
        <span className="room" />
        {board.links.map((one) => (
          <Control key={one.title} icon={one.icon || 'apps'}>
            {one.title} {one.asDropdown && <Icon name="angle-down" size="sm" />}
          </Control>
        ))}
      </nav>
    </header>
  );
}

function Page({ board, all, data, theme, width }) {
  const bottom = Math.max(...board.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <>
      <Top board={board} shown={data.shown} />
      <main style={{ height: bottom * (ROW + GAP) }}>
        {board.panels.map((panel) => {
          const place = placed(panel.gridPos, width);
          if (panel.type === 'row') {
            return <div className="row" key={panel.id} style={place}><Icon name="angle-down" /> {panel.title}</div>;
          }
          return (
            <Panel
              key={panel.id} panel={panel} frames={all[panel.id]} place={place} theme={theme} shown={data.shown}
              annotations={data.annotations} exemplars={data.exemplars[panel.id] ?? []}
            />
          );
        })}
      </main>
      <footer>{data.footer}</footer>
    </>
  );
}

async function draw() {
  await initPluginTranslations('runwire', []);
  const transformers = new Map(Object.values(standardTransformers).map((one) => [one.id, one]));
  standardTransformersRegistry.setInit(() => [...transformers.values()].map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation: async () => transformation, editor: () => null,
  })));
  const theme = createTheme({ colors: { mode: 'dark' } });
  const { board, data } = await (await fetch(`data/${location.hash.slice(1)}.json`)).json();
  const shown = board.panels.filter(({ type }) => type !== 'row');
  const all = Object.fromEntries(await Promise.all(shown.map(async (panel) =>
    [panel.id, await framesOf(panel, data.answers[panel.id], data.step, theme)])));
  await Promise.all(['400 14px Inter', '500 14px Inter', '400 14px "Roboto Mono"'].map((font) => document.fonts.load(font)));
  const root = document.getElementById('root');
  createRoot(root).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Page {...{ board, all, data, theme }} width={root.clientWidth - 32} />
    </ThemeContext.Provider>,
  );
  await new Promise((done) => setTimeout(done, 1500));
  window.drawn = Math.ceil(root.getBoundingClientRect().height);
}

draw().catch((error) => { window.failed = String(error.stack ?? error); });
window.addEventListener('error', ({ error, message }) => { window.failed ??= String(error?.stack ?? message); });

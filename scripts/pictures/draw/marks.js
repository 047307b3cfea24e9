// What Grafana's application draws over its time series: annotations, and exemplars of traces.
import { colorManipulator } from '@grafana/data';

const seen = new WeakSet();

export function addMarks(builder, { annotations, exemplars, theme }) {
  if (seen.has(builder)) return;
  seen.add(builder);
  builder.addHook('draw', (u) => {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const at = (seconds) => Math.min(Math.max(u.valToPos(seconds * 1000, 'x', true), left), left + width);
    ctx.save();
    for (const { start, end, color } of annotations) {
      const stroke = theme.visualization.getColorByName(color);
      const [from, to] = [at(start), at(end)];
      ctx.fillStyle = colorManipulator.alpha(stroke, 0.1);
      ctx.fillRect(from, top, to - from, height);
      ctx.fillStyle = stroke;
      ctx.fillRect(from, top + height, Math.max(to - from, 2), 4);
      ctx.strokeStyle = stroke;
      ctx.setLineDash([5, 5]);
      for (const x of [from, to]) {
        ctx.beginPath();
        ctx.moveTo(x, top);
        ctx.lineTo(x, top + height);
        ctx.stroke();
      }
    }
    const scale = Object.keys(u.scales).find((key) => key !== 'x');
    ctx.setLineDash([]);
    ctx.fillStyle = theme.visualization.getColorByName('light-green');
    ctx.strokeStyle = theme.colors.background.primary;
    for (const { at: seconds, value } of exemplars) {
      const { min, max } = u.scales[scale];
      if (value < min || value > max) continue;
      const [x, y] = [u.valToPos(seconds * 1000, 'x', true), u.valToPos(value, scale, true)];
      ctx.beginPath();
      ctx.moveTo(x, y - 4);
      ctx.lineTo(x + 4, y);
      ctx.lineTo(x, y + 4);
      ctx.lineTo(x - 4, y);
      ctx.closePath();
      ctx.fill();
      ctx.stroke();
    }
    ctx.restore();
  });
}

import { useComputedColorScheme } from '@mantine/core';
import { useEffect, useRef, type ReactNode } from 'react';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { formatFigure, historyNames } from '../../../core/domain/history-words';
import type { HistoryField } from '../../../core/domain/history';
import type { HistoryView } from '../../../core/wire/rest';
import type { Zoom } from './history';

const height = 180;
const axisWidth = 76;
const colours = { light: ['#1971c2', '#c2410c'], dark: ['#74c0fc', '#ffa94d'] } as const;
const lines = { light: ['#495057', '#dee2e6'], dark: ['#c1c2c5', '#3b3b3b'] } as const;
/** One cross-hair for all charts of a page. */
const sync = uPlot.sync('history');

/** The mean as a line, the highest readings above it paler. Drag chooses a time. */
export default function Chart(p: {
  readonly history: HistoryView;
  readonly fields: readonly HistoryField[];
  readonly from: number;
  readonly to: number;
  readonly zoom: (to: Zoom) => void;
}): ReactNode {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const scheme = useComputedColorScheme('light');
  const latest = useRef(p);
  latest.current = p;
  const fields = p.fields.join();
  useEffect(() => {
    const at = box.current;
    if (at === null) return;
    const own = latest.current;
    const [text, grid] = lines[scheme];
    const say = (f: HistoryField | undefined, n: number | null): string =>
      n === null || f === undefined ? '–' : formatFigure(f, n);
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    const u = new uPlot(
      {
        width: at.clientWidth,
        height,
        scales: {
          y: { range: (_, __, most) => [0, own.fields[0] === 'cpuPct' ? 100 : Math.max(1, most) * 1.1] },
        },
        axes: [axis, { ...axis, size: axisWidth, values: (_, all) => all.map((n) => say(own.fields[0], n)) }],
        cursor: { sync: { key: sync.key }, drag: { x: true, y: false, setScale: false } },
        series: [
          {},
          ...own.fields.flatMap((f, i): uPlot.Series[] => {
            const stroke = colours[scheme][i] ?? '';
            const value: uPlot.Series.Value = (_, n) => say(f, n);
            return [
              { label: historyNames[f], stroke, width: 2, value },
              { label: `${historyNames[f]}, highest`, stroke: `${stroke}66`, width: 1, value },
            ];
          }),
        ],
        hooks: {
          setSelect: [
            (u) => {
              if (u.select.width < 3) return;
              const { left, width } = u.select;
              latest.current.zoom([u.posToVal(left, 'x'), u.posToVal(left + width, 'x')]);
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            },
          ],
        },
      },
      dataOf(own.history, own.fields),
      at,
    );
    u.setScale('x', { min: own.from, max: own.to });
    plot.current = u;
    const sizes = new ResizeObserver(() => u.setSize({ width: at.clientWidth, height }));
    sizes.observe(at);
    return () => {
      sizes.disconnect();
      u.destroy();
      plot.current = null;
    };
  }, [scheme, fields]);
  useEffect(() => {
    plot.current?.setData(dataOf(p.history, latest.current.fields), false);
    plot.current?.setScale('x', { min: p.from, max: p.to });
  }, [p.history, p.from, p.to]);
  // The table below says the same in words.
  return <div ref={box} className="chart-room" aria-hidden="true" />;
}

/** Columns as the library wants them; where nothing was kept there is a gap in the line. */
function dataOf(h: HistoryView, fields: readonly HistoryField[]): uPlot.AlignedData {
  const times: number[] = [];
  const columns = fields.flatMap((): (number | null)[][] => [[], []]);
  let before = Infinity;
  h.atMs.forEach((ms, i) => {
    const s = ms / 1000;
    if (s - before > 1.5 * h.stepS) {
      times.push(before + h.stepS);
      for (const c of columns) c.push(null);
    }
    before = s;
    times.push(s);
    fields.forEach((f, k) => {
      columns[2 * k]?.push(h.avg[f][i] ?? null);
      columns[2 * k + 1]?.push(h.max[f][i] ?? null);
    });
  });
  return [times, ...columns];
}

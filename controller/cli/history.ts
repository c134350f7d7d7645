import { Option, type Command } from 'commander';
import { historyFields, historySpans } from '../../core/domain/history.js';
import { formatFigure, historyNames } from '../../core/domain/history-words.js';
import { formatSpan } from '../../core/domain/units.js';
import type { HistoryView } from '../../core/wire/rest.js';
import type { Io } from './io.js';
import { table } from './table.js';

const bars = '▁▂▃▄▅▆▇█';
const barsShown = 32;

/** `flotilla vm history`, `flotilla node history` */
export function historyCommand(of: Command, io: Io, kind: 'vm' | 'node'): void {
  of.command('history')
    .description('how it fared: CPU, memory, traffic')
    .argument(`<${kind}>`)
    .addOption(
      new Option('--span <span>', 'a day by half minutes, or a month by half hours')
        .choices(Object.keys(historySpans))
        .default('day'),
    )
    .action(async (name: string, query: { span: HistoryView['span'] }) => {
      const client = await io.client();
      const h =
        kind === 'vm'
          ? await client.call('vmHistory', { params: { vm: name }, query })
          : await client.call('nodeHistory', { params: { node: name }, query });
      io.show(h, () => historyText(h, io.terminal.width));
      if (h.silent.length > 0)
        io.say(`No answer of ${h.silent.join(', ')}: what was kept there is missing.\n`);
    });
}

function historyText(h: HistoryView, width: number | null): string {
  const [first] = h.atMs;
  if (first === undefined) return 'Nothing was kept yet.';
  const rows = historyFields.map((f) => {
    const avg = h.avg[f];
    const mean = avg.reduce((a, b) => a + b, 0) / avg.length;
    const most = h.max[f].reduce((a, b) => Math.max(a, b), 0);
    return { f, last: avg.at(-1) ?? 0, mean, most, line: line(avg, h.atMs, h.stepS) };
  });
  const since = `since ${new Date(first).toLocaleString('sv')}, ${h.atMs.length} points of ${formatSpan(h.stepS * 1000)}`;
  return [
    table(
      rows,
      [
        { head: '', text: (r) => historyNames[r.f] },
        { head: 'LAST', text: (r) => formatFigure(r.f, r.last), right: true },
        { head: 'MEAN', text: (r) => formatFigure(r.f, r.mean), right: true },
        { head: 'HIGHEST', text: (r) => formatFigure(r.f, r.most), right: true },
        { head: 'OVER TIME', text: (r) => r.line, give: 1 },
      ],
      width,
    ),
    since,
  ].join('\n');
}

/** The means over time as little bars, the highest of them a whole one; a dot where nothing was kept. */
function line(values: readonly number[], atMs: readonly number[], stepS: number): string {
  const from = atMs[0] ?? 0;
  const slots = Math.floor(((atMs.at(-1) ?? from) - from) / (stepS * 1000)) + 1;
  const each = Math.max(1, Math.ceil(slots / barsShown));
  const cells: number[][] = Array.from({ length: Math.ceil(slots / each) }, () => []);
  values.forEach((v, i) => cells[Math.floor(((atMs[i] ?? from) - from) / (stepS * 1000) / each)]?.push(v));
  const means = cells.map((c) => (c.length === 0 ? null : c.reduce((a, b) => a + b, 0) / c.length));
  const most = Math.max(...means.map((m) => m ?? 0));
  return means
    .map((m) =>
      m === null ? '·' : (bars[most === 0 ? 0 : Math.round((m / most) * (bars.length - 1))] ?? ''),
    )
    .join('');
}

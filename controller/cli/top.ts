import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import { formatSize, parseSeconds } from '../../core/domain/units.js';
import type { NodeView, VmRow } from '../../core/wire/rest.js';
import { wholeNumber } from './input.js';
import { bar, type Io } from './io.js';
import { table, type Column } from './table.js';

const homeAndClear = '\u001b[H\u001b[J';
/** Lines of a terminal whose height is not told. */
const linesDefault = 24;

interface TopOptions {
  sort: 'cpu' | 'memory' | 'name';
  every: string;
  once?: true;
  lines?: number;
}

const percent = (used: number, of: number): string => (of > 0 ? `${Math.round((100 * used) / of)} %` : '');

const nodeColumns: readonly Column<NodeView>[] = [
  { head: 'NODE', text: (n) => n.id },
  { head: 'STATE', text: (n) => n.presence },
  { head: 'VMS', text: (n) => String(n.vms), right: true },
  { head: 'CPU', text: (n) => (n.state === null ? '' : `${Math.round(n.state.cpuUsedPct)} %`), right: true },
  { head: '', text: (n) => (n.state === null ? '' : bar(n.state.cpuUsedPct / 100)), give: 2 },
  {
    head: 'MEMORY',
    text: (n) => (n.state === null ? '' : percent(n.state.memoryUsedBytes, n.state.memoryBytes)),
    right: true,
  },
  {
    head: '',
    text: (n) => (n.state === null ? '' : bar(n.state.memoryUsedBytes / Math.max(1, n.state.memoryBytes))),
    give: 2,
  },
];

const cores = (v: VmRow): number => ((v.cpuPct ?? 0) * v.cpus) / 100;

const vmColumns: readonly Column<VmRow>[] = [
  { head: 'VM', text: (v) => v.name },
  { head: 'NODE', text: (v) => v.node ?? '–' },
  { head: 'STATE', text: (v) => v.phase },
  { head: 'CORES', text: (v) => (v.cpuPct === null ? '' : cores(v).toFixed(2)), right: true },
  { head: 'CPU', text: (v) => (v.cpuPct === null ? '' : `${Math.round(v.cpuPct)} %`), right: true },
  {
    head: 'MEMORY',
    text: (v) => (v.memoryUsedBytes === null ? '' : formatSize(v.memoryUsedBytes)),
    right: true,
  },
  { head: 'OF', text: (v) => formatSize(v.memoryMiB * 2 ** 20), right: true },
];

const orders: Readonly<Record<TopOptions['sort'], (a: VmRow, b: VmRow) => number>> = {
  cpu: (a, b) => cores(b) - cores(a),
  memory: (a, b) => (b.memoryUsedBytes ?? 0) - (a.memoryUsedBytes ?? 0),
  name: () => 0,
};

/** `flotilla top` */
export function topCommand(program: Command, io: Io): void {
  program
    .command('top')
    .description('what nodes and VMs use, the busiest first; drawn anew until Ctrl-C')
    .addOption(new Option('--sort <by>').choices(['cpu', 'memory', 'name']).default('cpu'))
    .option('--every <time>', 'how often', '2s')
    .option('--once', 'print it once; so it is where the output is no terminal')
    .option('--lines <n>', 'so many at most; else what the terminal has', wholeNumber)
    .action(async (o: TopOptions) => {
      const everyMs = Math.max(1, parseSeconds(o.every, '--every')) * 1000;
      const { terminal } = io;
      // A table for a program, or for a file, is one table.
      const once = o.once === true || io.json || terminal.width === null;
      const client = await io.client();
      for (;;) {
        const [c, nodes, vms] = await Promise.all([
          client.call('clusterGet', {}),
          client.call('nodeList', { query: {} }),
          client.call('vmList', { query: {} }),
        ]);
        const sorted = [...vms.items].sort(orders[o.sort]);
        const lines = o.lines ?? (once ? Infinity : (terminal.height ?? linesDefault) - 1);
        const text = [
          c.sentence,
          '',
          table(nodes.items, nodeColumns, terminal.width),
          '',
          table(sorted, vmColumns, terminal.width),
        ]
          .join('\n')
          .split('\n')
          .slice(0, lines)
          .join('\n');
        if (once) {
          io.show({ sentence: c.sentence, nodes: nodes.items, vms: sorted }, () => text);
          return;
        }
        terminal.out(`${homeAndClear}${text}`);
        await sleep(everyMs, undefined, { signal: terminal.signal }).catch(() => undefined);
        if (terminal.signal.aborted) return;
      }
    });
}

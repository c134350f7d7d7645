import type { Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { opFinished } from '../../core/domain/op.js';
import { rollingArgs, type RollingNode } from '../../core/domain/rolling.js';
import type { OpView, RollingView } from '../../core/wire/rest.js';
import { wholeNumber } from './input.js';
import { opLine, type Io, type WaitOptions } from './io.js';
import { table, type Column } from './table.js';
import { waiting } from './vm.js';

interface Which {
  readonly nodes?: string[];
  readonly tag?: string[];
  readonly atOnce: number;
}

interface Begin extends Which, WaitOptions {
  readonly dryRun?: true;
  readonly restart?: true;
  readonly bringBack?: true;
}

const columns: readonly Column<RollingNode>[] = [
  { head: 'NODE', text: (n) => n.node },
  { head: 'STATE', text: (n) => n.state },
  { head: 'VERSION', text: (n) => n.version ?? '–' },
  { head: 'NOW', text: (n) => n.text, give: 1 },
];

/** `flotilla rolling`: the same work on one node after the other. */
export function rollingCommands(program: Command, io: Io): void {
  const rolling = program
    .command('rolling')
    .description('restart or update nodes in turn, each emptied before and well after');
  which(rolling.command('plan', { isDefault: true }))
    .description('in which order nodes could go down for work, and what moves before; nothing is done')
    .action(async (o: Which) => preview(o));
  beginning(rolling.command('reboot'))
    .description('restart nodes, one group after the other')
    .action(async (o: Begin) => begin(o, { work: 'reboot' }));
  beginning(rolling.command('update'))
    .description('update nodes of the appliance, one group after the other')
    .requiredOption('--image <image>', 'of "images/build image", imported into the catalogue')
    .action(async (o: Begin & { image: string }) => begin(o, { work: 'update', image: o.image }));
  rolling
    .command('show')
    .description('how far it is with each node')
    .action(async () => {
      const op = await newest();
      io.show(op, () => showText(op, io.terminal.width));
    });
  rolling
    .command('pause')
    .description('begin with no further node until it is resumed')
    .action(async () => {
      const op = await (await io.client()).call('opPause', { params: { op: (await newest()).id } });
      io.show(op, () => 'Paused: the node under way is done to its end, no further one is begun.');
    });
  waiting(rolling.command('resume'))
    .description('go on: with one that was paused, or with what is left of one that stopped')
    .action(async (o: WaitOptions) => {
      const op = await (await io.client()).call('opResume', { params: { op: (await newest()).id } });
      const end = await io.follow(op, o);
      io.show(end, () => end.step);
    });
  waiting(rolling.command('cancel'))
    .description(
      'end it: a node that has not restarted yet is set active again, others are done to their end',
    )
    .action(async (o: WaitOptions) => {
      const client = await io.client();
      let op = await client.call('opCancel', { params: { op: (await newest()).id } });
      while (o.wait && !opFinished(op)) {
        io.progress(opLine(op));
        op = await client.call('opGet', { params: { op: op.id }, query: { waitS: 10 } });
      }
      io.progress(null);
      io.show(op, () => `${op.state}: ${op.error?.message ?? op.step}`);
    });

  async function begin(
    o: Begin,
    what: { work: 'reboot' } | { work: 'update'; image: string },
  ): Promise<void> {
    if (o.dryRun === true) return preview(o);
    const { op } = await (
      await io.client()
    ).call('rollingBegin', {
      body: {
        ...what,
        nodes: o.nodes ?? [],
        tags: o.tag ?? [],
        atOnce: o.atOnce,
        restart: o.restart === true,
        bringBack: o.bringBack === true,
      },
    });
    const end = await io.follow(op, o);
    io.show(end, () => end.step);
  }

  async function preview(o: Which): Promise<void> {
    const query = {
      atOnce: o.atOnce,
      ...(o.nodes === undefined ? {} : { nodes: o.nodes.join() }),
      ...(o.tag === undefined ? {} : { tags: o.tag.join() }),
    };
    const r = await (await io.client()).call('rollingGet', { query });
    io.show(r, () => planText(r));
  }

  /** The operation under way, or else the last one. */
  async function newest(): Promise<OpView> {
    const { items } = await (
      await io.client()
    ).call('opList', { query: { kind: 'cluster.rolling', limit: 1 } });
    const [op] = items;
    if (op !== undefined) return op;
    throw new FlotillaError('not-found', 'There was no rolling work of late', {
      hint: 'Begin some: flotilla rolling reboot, flotilla rolling update.',
    });
  }
}

const which = (c: Command): Command =>
  c
    .option('--nodes <nodes>', 'only these, with commas between', (s) => s.split(','))
    .option('--tag <tags>', 'only nodes with one of these tags', (s) => s.split(','))
    .option('--at-once <n>', 'nodes down at the same time, at most', wholeNumber, 1);

const beginning = (c: Command): Command =>
  waiting(which(c))
    .option('--dry-run', 'only say in which order, and what moves before')
    .option('--restart', 'VMs that cannot move while they run may be shut down and started elsewhere')
    .option('--bring-back', 'VMs come back to each node when it is well');

const planText = (r: RollingView): string =>
  [
    r.sentence,
    ...r.groups.map(
      (g, i) =>
        `${i + 1}. ${g.nodes.join(', ')}${g.moves.length === 0 ? '' : `, after ${g.moves.map((m) => `${m.name} → ${m.to}`).join(', ')}`}`,
    ),
    ...r.blocked.map((b) => `${b.node} cannot be emptied: ${b.reason}`),
  ].join('\n');

function showText(op: OpView, width: number | null): string {
  const args = rollingArgs(op);
  return [
    opLine(op),
    ...(op.error === null ? [] : [op.error.message, op.error.hint]),
    ...(args === null ? [] : ['', table(args.nodes, columns, width)]),
  ].join('\n');
}

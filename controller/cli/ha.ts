import type { Command } from 'commander';
import { failoverSteps, failoverTotalMs, fenceText } from '../../core/domain/failover-words.js';
import { FlotillaError } from '../../core/domain/error.js';
import { failoverTimelineSchema, policySchema, type FailoverTimeline } from '../../core/domain/ha.js';
import { isHeard, type NodeKeeper } from '../../core/domain/node.js';
import type {
  HaFailover,
  HaNode,
  HaView,
  NodeView,
  OpView,
  PolicyView,
  RestCall,
} from '../../core/wire/rest.js';
import { wholeNumber } from './input.js';
import type { Io } from './io.js';
import { table, type Column } from './table.js';

const seconds = (ms: number | null): string => (ms === null ? '–' : `${(ms / 1000).toFixed(1)} s`);
const when = (wallMs: number): string => new Date(wallMs).toISOString().slice(0, 19).replace('T', ' ');

const keeperWord = (
  n: Pick<HaNode, 'presence'> & { readonly keeper: Pick<NodeKeeper, 'mode'> | null },
): string => {
  if (!isHeard(n.presence)) return 'not heard';
  const words: Record<NodeKeeper['mode'], string> = { run: 'runs', ice: 'has frozen its VMs', thaw: 'thaws' };
  return n.keeper === null ? 'does not answer' : words[n.keeper.mode];
};

/** A node's keeper in a line. */
export function keeperText({ presence, state }: Pick<NodeView, 'presence' | 'state'>): string {
  const keeper = state?.keeper ?? null;
  const word = keeperWord({ presence, keeper });
  if (keeper === null || word === 'not heard') return word;
  const arms = keeper.armable ? 'would arm' : `would not arm: ${keeper.why}`;
  const wrong = keeper.text === '' ? '' : ` (${keeper.text})`;
  return `${word}${wrong}, watchdog ${keeper.watchdog}, ${keeper.armed} armed, ${arms}`;
}

const nodeColumns: readonly Column<HaNode>[] = [
  { head: 'NODE', text: (n) => n.node },
  { head: 'LEASE', text: (n) => (n.live ? 'held' : 'gone') },
  { head: 'KEEPER', text: keeperWord },
  { head: 'WATCHDOG', text: (n) => n.keeper?.watchdog ?? '–', give: 2 },
  { head: 'ARMED', text: (n) => (n.keeper === null ? '–' : String(n.keeper.armed)), right: true },
  {
    head: 'HELD',
    text: (n) => (n.keeper === null ? '–' : String(n.keeper.held.length)),
    right: true,
    give: 3,
  },
  {
    head: 'WOULD ARM',
    text: (n) => (n.keeper === null ? 'no' : n.keeper.armable ? 'yes' : `no: ${n.keeper.why}`),
    give: 1,
  },
];

const admissionText: Record<PolicyView['plan']['admission'], string> = {
  off: 'VMs are made and started whether or not a failover would find room',
  warn: 'VMs are made and started with a warning where a failover would find no room',
  enforce: 'VMs after which a failover would find no room are refused',
};

function policyText({ ha, plan, copies }: Pick<PolicyView, 'ha' | 'plan' | 'copies'>): string {
  const words = [
    ha.paused ? 'HA is PAUSED: nothing freezes and nothing fails over' : 'HA is on',
    ...(ha.hold ? ['failovers are HELD until somebody lets go'] : []),
    ...(ha.hold || ha.paused ? [] : ['failovers happen by themselves']),
    ha.unsafeWithoutWatchdog ? 'UNSAFE: nodes without watchdog may arm' : 'a node needs a watchdog to arm',
    admissionText[plan.admission],
    copies.replaceAfterMin === null
      ? 'a lost second copy of disks is made elsewhere when somebody says so'
      : `a second copy of disks that is lost for ${copies.replaceAfterMin} min is made elsewhere`,
  ];
  return `${words.join('; ')}.`;
}

/** One screen. */
function statusText(h: HaView, width: number | null): string {
  const out = [h.sentence, policyText(h.policy), '', table(h.nodes, nodeColumns, width)];
  const part = (head: string, lines: readonly string[]): void => {
    if (lines.length > 0) out.push('', head, ...lines.map((l) => `  ${l}`));
  };
  part(
    'Not protected:',
    h.unprotected.map((v) => `${v.name} (${v.node ?? 'no owner'}): ${v.text}`),
  );
  part(
    'If one node fails:',
    h.shortfalls.map((x) => `${x.text}. ${x.help}`),
  );
  part('Failovers that wait:', [
    ...h.waiting.map((v) => `${v.name}: ${v.text}`),
    ...h.nodes.filter((n) => n.failover !== '').map((n) => `${n.node} says: ${n.failover}`),
  ]);
  part(
    'Frozen or killed by a keeper:',
    h.nodes.flatMap((n) => (n.keeper?.held ?? []).map((x) => `${x.name ?? x.vm} on ${n.node}: ${x.why}`)),
  );
  part('Last failovers:', h.failovers.map(failoverText));
  return out.join('\n');
}

function failoverText(f: HaFailover): string {
  const t = f.timeline;
  if (t === null) return `${when(f.createdMs)} ${f.name}: ${f.state}, in a form this program does not know`;
  const took = f.totalMs === null ? `${f.state}: ${f.step || 'not running yet'}` : `in ${seconds(f.totalMs)}`;
  return `${when(t.atMs)} ${f.name}: ${t.from} → ${t.to} ${took} (${fenceText(t)})`;
}

/** What `op show` and `vm show` tell of a failover: each step with its seconds. */
export function failoverFacts(op: Pick<OpView, 'kind' | 'args'>): (readonly [string, string])[] {
  const t = op.kind === 'vm.failover' ? timelineOf(op) : null;
  if (t === null) return [];
  return [
    ['Failover', `${t.from} → ${t.to}, ${when(t.atMs)} UTC`],
    ['Fenced', fenceText(t)],
    ...failoverSteps(t).map((s): [string, string] => [
      `  ${s.atS.toFixed(1).padStart(6)} s`,
      `${s.text} (+${s.tookS.toFixed(1)} s)`,
    ]),
  ];
}

const timelineOf = (op: Pick<OpView, 'args'>): FailoverTimeline | null =>
  failoverTimelineSchema.safeParse(op.args).data ?? null;

const failoverColumns: readonly Column<OpView>[] = [
  { head: 'WHEN', text: (o) => when(timelineOf(o)?.atMs ?? o.createdMs) },
  { head: 'VM', text: (o) => o.subject.name },
  { head: 'FROM', text: (o) => timelineOf(o)?.from ?? '–' },
  { head: 'TO', text: (o) => timelineOf(o)?.to ?? '–' },
  {
    head: 'TOTAL',
    text: (o) => {
      const t = timelineOf(o);
      return seconds(t === null ? null : failoverTotalMs(t));
    },
    right: true,
  },
  { head: 'STATE', text: (o) => o.state, give: 2 },
  {
    head: 'STEPS',
    text: (o) => {
      const t = timelineOf(o);
      return t === null
        ? ''
        : failoverSteps(t)
            .map((s) => `${s.phase} +${s.tookS.toFixed(1)}`)
            .join(', ');
    },
    give: 3,
  },
  { head: 'OP', text: (o) => o.id, give: 4 },
];

type Switches = NonNullable<RestCall<'policyPatch'>['body']['ha']>;

const vms = (n: number): string => `${n} ${n === 1 ? 'VM' : 'VMs'}`;

/** Each switch: its command, what it does, and what is said when it is done. */
const switches: readonly [string, string, Switches, (before: PolicyView) => string][] = [
  [
    'pause',
    'disarm the whole cluster: nothing freezes and nothing fails over (for work on switches)',
    { paused: true },
    (b) =>
      `HA is paused: no VM freezes and none fails over, until flotilla ha resume. ${vms(b.armed)} that ${b.armed === 1 ? 'was' : 'were'} armed ${b.armed === 1 ? 'is' : 'are'} being disarmed.`,
  ],
  [
    'resume',
    'end a pause',
    { paused: false },
    (b) => `HA is on again: ${vms(b.wanted)} ${b.wanted === 1 ? 'is' : 'are'} being armed.`,
  ],
  [
    'hold',
    'let failovers wait for a person; VMs stay armed',
    { hold: true },
    () => 'Failovers are held: VMs of a lost node stay down until flotilla ha release.',
  ],
  [
    'release',
    'let failovers happen by themselves again, those that wait at once',
    { hold: false },
    () => 'Failovers happen by themselves again; those that waited begin now.',
  ],
  [
    'allow-unsafe',
    'let nodes without a watchdog arm',
    { unsafeWithoutWatchdog: true },
    () =>
      'Nodes without a watchdog may arm now. If such a node hangs and does not die, its VMs may run twice and damage their disks. Every page says so.',
  ],
  [
    'forbid-unsafe',
    'nodes need a watchdog to arm',
    { unsafeWithoutWatchdog: false },
    () => 'A node needs a watchdog to arm. VMs on nodes without one are being disarmed.',
  ],
];

export function haCommands(program: Command, io: Io): void {
  const ha = program.command('ha').description('high availability of the whole cluster');
  ha.command('status')
    .description('policy, keepers, VMs that are not protected, failovers')
    .action(async () => {
      const h = await (await io.client()).call('haGet', {});
      io.show(h, () => statusText(h, io.terminal.width));
    });
  for (const [name, text, change, said] of switches) {
    ha.command(name)
      .description(text)
      .action(async () => {
        const client = await io.client();
        const before = await client.call('policyGet', {});
        const after = await client.call('policyPatch', { body: { ha: change } });
        const same = JSON.stringify(before.ha) === JSON.stringify(after.ha);
        io.show(after, () => (same ? `It was so already. ${policyText(after)}` : said(before)));
      });
  }
  ha.command('admission')
    .description('what becomes of a change after which a promised failover would find no room')
    .argument('<mode>', Object.keys(admissionText).join(', '))
    .action(async (mode: string) => {
      const admission = policySchema.shape.plan.unwrap().shape.admission.safeParse(mode).data;
      if (admission === undefined)
        throw new FlotillaError('bad-input', `There is no "${mode}"`, {
          hint: `Say one of: ${Object.keys(admissionText).join(', ')}.`,
        });
      const after = await (await io.client()).call('policyPatch', { body: { plan: { admission } } });
      io.show(after, () => policyText(after));
    });
  ha.command('replace-standby')
    .description('after how long a lost standby with copies of disks is replaced by another node')
    .argument('<minutes>', 'minutes, or never')
    .action(async (text: string) => {
      const replaceAfterMin = text === 'never' ? null : wholeNumber(text);
      const after = await (await io.client()).call('policyPatch', { body: { copies: { replaceAfterMin } } });
      io.show(after, () => policyText(after));
    });
  ha.command('failovers')
    .description('failovers, newest first, with the time of each step')
    .option('--limit <n>', 'at most so many', wholeNumber, 30)
    .action(async (o: { limit: number }) => {
      const query = { limit: o.limit, kind: 'vm.failover' } as const;
      const page = await (await io.client()).call('opList', { query });
      io.list(page.items, failoverColumns, 'There was no failover, as far as the ledger remembers.');
    });
}

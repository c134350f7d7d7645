import { formatSize } from '../core/domain/units.js';
import type {
  ClusterView,
  Concern,
  Freshness,
  NodeView,
  OpView,
  PoolView,
  VmRow,
} from '../core/wire/rest.js';
import type { ClusterMeta } from '../core/domain/cluster.js';
import type { Policy } from '../core/domain/ha.js';
import { isHeard } from '../core/domain/node.js';

/** What the summary is made of. */
export interface SummaryParts {
  readonly meta: ClusterMeta | null;
  readonly freshness: Freshness;
  readonly nodes: readonly NodeView[];
  readonly vms: readonly VmRow[];
  readonly pools: readonly PoolView[];
  readonly ops: readonly OpView[];
  readonly images: number;
  readonly unreadable: ReadonlyMap<string, string>;
  readonly refused: Readonly<Record<string, number>>;
  readonly version: string;
  readonly policy: Policy;
  /** VMs whose owner is gone and that nobody has taken over yet, by id. */
  readonly waiting: ReadonlySet<string>;
  /** Standbys that have not the memory for what they promised, whichever one node fails. */
  readonly shortfalls: readonly { readonly text: string }[];
}

/** More VMs than this of one node with one complaint are told in one line. */
const groupAbove = 3;

/** Is all well? The whole cluster folded to a sentence, what wants a hand, and what is left of it. */
export function summary(p: SummaryParts): ClusterView {
  const concerns = concernsOf(p);
  const here = p.nodes.filter(
    (n) => !sleeps(n) && (n.presence === 'here' || n.presence === 'suspect'),
  ).length;
  const running = p.vms.filter((v) => v.phase === 'running').length;
  const opsOpen = p.ops.filter((o) => o.state === 'queued' || o.state === 'running').length;
  const well = concerns.length === 0;
  return {
    ...p.freshness,
    meta:
      p.meta === null
        ? null
        : {
            schema: p.meta.schema,
            id: p.meta.id,
            name: p.meta.name,
            epoch: p.meta.epoch,
            foundedMs: p.meta.foundedMs,
            founder: p.meta.founder,
          },
    sentence: sentenceOf(p, here, running, concerns),
    well,
    concerns,
    counts: {
      nodes: p.nodes.length,
      nodesHere: here,
      vms: p.vms.length,
      vmsRunning: running,
      images: p.images,
      opsOpen,
      unreadable: p.unreadable.size,
    },
    capacity: capacityOf(p),
    unreadable: [...p.unreadable].slice(0, 100).map(([key, text]) => ({ key, text })),
    refused: { ...p.refused },
    version: p.version,
  };
}

/** Powered off on purpose, and not on. */
const sleeps = (n: NodeView): boolean => n.record.asleep !== undefined && !n.live;
const some = (n: number, one: string, many = `${one}s`): string => `${n} ${n === 1 ? one : many}`;

function sentenceOf(p: SummaryParts, here: number, running: number, concerns: readonly Concern[]): string {
  const asleep = p.nodes.filter(sleeps).length;
  const all =
    here + asleep === p.nodes.length
      ? some(p.nodes.length, 'node')
      : `${here} of ${some(p.nodes.length, 'node')} here`;
  const nodes = asleep === 0 ? all : `${all} (${asleep} asleep)`;
  const vms = p.vms.length === 0 ? 'no VMs yet' : `${some(p.vms.length, 'VM')}, ${running} running`;
  const worst = concerns.find((c) => c.level === 'error') ?? concerns[0];
  if (worst === undefined) return `All is well: ${nodes}, ${vms}${safetyWords(p)}.`;
  const more = concerns.length > 1 ? ` (and ${some(concerns.length - 1, 'more thing')} to look at)` : '';
  return `${nodes}, ${vms}. ${worst.subject}: ${worst.text}${more}.`;
}

/** What is protected, and whether any one node may fail; said only where all is well. */
function safetyWords(p: SummaryParts): string {
  if (p.vms.length === 0) return '';
  const safe = p.vms.filter((v) => v.ha.state === 'protected').length;
  if (safe === 0) return ', none protected';
  const which = safe === p.vms.length ? 'all protected' : `${safe} protected`;
  // Of one or two voters none may be missed: without a majority nothing starts.
  const voters = p.nodes.filter((n) => n.record.voter && n.live).length;
  return `, ${which}; ${voters >= 3 ? 'any one node may fail' : 'the ledger needs every voter'}`;
}

function concernsOf(p: SummaryParts): Concern[] {
  const out: Concern[] = [];
  const say = (level: Concern['level'], subject: string, text: string): void => {
    out.push({ level, subject, text });
  };
  if (p.freshness.ledger === 'stale')
    say('error', 'ledger', 'it cannot be read now; what is shown is old, and nothing can be changed');
  if (p.unreadable.size > 0)
    say('error', 'ledger', `${some(p.unreadable.size, 'record')} cannot be read: nothing is done with them`);
  for (const n of p.nodes) {
    for (const text of n.problems) say(levelOf(n), `node ${n.id}`, text);
    if (n.record.desired !== 'active' && n.record.asleep === undefined)
      say('warning', `node ${n.id}`, `is set to ${n.record.desired}`);
  }
  concernsOfVms(p.vms, say);
  concernsOfHa(p, say);
  for (const pool of p.pools) {
    for (const u of pool.use) {
      const share = u.totalBytes > 0 ? u.freeBytes / u.totalBytes : 1;
      if (!u.ok) say('error', `pool ${pool.name}`, `on ${u.node}: ${u.text}`);
      else if (share * 100 < pool.reservePct)
        say('warning', `pool ${pool.name}`, `on ${u.node} only ${formatSize(u.freeBytes)} are free`);
    }
  }
  return out.sort((a, b) => (a.level === b.level ? 0 : a.level === 'error' ? -1 : 1));
}

type Say = (l: Concern['level'], s: string, t: string) => void;

function concernsOfHa(p: SummaryParts, say: Say): void {
  const { ha } = p.policy;
  if (ha.unsafeWithoutWatchdog)
    say(
      'error',
      'HA',
      'nodes without a watchdog may arm: if one hangs and does not die, its VMs may run twice',
    );
  if (ha.paused) say('warning', 'HA', 'is paused: nothing freezes and nothing fails over');
  if (ha.hold) say('warning', 'HA', 'failovers are held until somebody lets go (flotilla ha release)');
  const [short] = p.shortfalls;
  if (short !== undefined)
    say(
      'warning',
      'HA',
      `${short.text}${p.shortfalls.length > 1 ? `, and ${p.shortfalls.length - 1} more like that` : ''}`,
    );
  for (const v of p.vms) if (p.waiting.has(v.id)) say('error', `VM ${v.name}`, `waits: ${v.ha.text}`);
  const bare = p.vms.filter((v) => v.ha.state === 'unprotected' && !p.waiting.has(v.id));
  const [first] = bare;
  if (first !== undefined && bare.length > groupAbove)
    say('warning', `${bare.length} VMs`, `are not protected, e.g. "${first.name}": ${plain(first)}`);
  else for (const v of bare) say('warning', `VM ${v.name}`, `is not protected: ${plain(v)}`);
}

const plain = (v: VmRow): string => v.ha.text.replace(/^not protected: /, '');

const levelOf = (n: NodeView): Concern['level'] => (isHeard(n.presence) ? 'warning' : 'error');

function concernsOfVms(vms: readonly VmRow[], say: Say): void {
  const unknown = new Map<string, VmRow[]>();
  for (const v of vms) {
    if (v.phase === 'crashed' || v.phase === 'failed')
      say('error', `VM ${v.name}`, v.reason === '' ? `it ${v.phase}` : `${v.phase}: ${v.reason}`);
    else if (v.phase === 'unknown') {
      const at = `${v.node ?? ''}\u0000${v.reason}`;
      unknown.set(at, [...(unknown.get(at) ?? []), v]);
    } else if (v.error !== null) say('warning', `VM ${v.name}`, v.error.message);
  }
  for (const group of unknown.values()) {
    const first = group[0] as VmRow;
    if (group.length > groupAbove)
      say('warning', `${group.length} VMs`, `nobody knows how they are: ${first.reason}`);
    else for (const v of group) say('warning', `VM ${v.name}`, `nobody knows how it is: ${v.reason}`);
  }
}

function capacityOf(p: SummaryParts): ClusterView['capacity'] {
  const sum = { memoryBytes: 0, memoryUsedBytes: 0, cpus: 0, cpusCommitted: 0, memoryCommittedBytes: 0 };
  for (const n of p.nodes) {
    sum.cpus += n.state?.cpus ?? 0;
    sum.memoryBytes += n.state?.memoryBytes ?? 0;
    sum.memoryUsedBytes += n.state?.memoryUsedBytes ?? 0;
    sum.cpusCommitted += n.committedCpus;
    sum.memoryCommittedBytes += n.committedMemoryMiB * 1024 * 1024;
  }
  let poolBytes = 0;
  let poolFreeBytes = 0;
  for (const pool of p.pools) {
    // A shared pool is one directory, whoever tells of it.
    const uses = pool.kind === 'shared' ? pool.use.slice(0, 1) : pool.use;
    for (const u of uses) {
      poolBytes += u.totalBytes;
      poolFreeBytes += u.freeBytes;
    }
  }
  return { ...sum, poolBytes, poolFreeBytes };
}

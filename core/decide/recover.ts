import type { JournalEntry } from '../domain/ha.js';

/**
 * New generations are so much above the highest one known: journals that nobody could read may know higher ones, and
 * what a node finds at its return must be older than the ledger. A VM changes its generation a few times a day.
 */
export const generationLeap = 1_000;

export interface RecoverNode {
  readonly id: string;
  /** Its journal was read just now. */
  readonly reachable: boolean;
  /** May be given VMs: active, no witness. */
  readonly runsVms: boolean;
}

export interface RecoverVm {
  readonly id: string;
  readonly name: string;
  readonly memoryMiB: number;
  /** Its HA is on. */
  readonly ha: boolean;
  /** As the rebuilt ledger has it. */
  readonly own: { readonly owner: string; readonly gen: number; readonly standby: string | null };
  /** Nodes that reach all its disks. */
  readonly heirs: readonly string[];
}

export interface RecoverView {
  /** The epoch the ledger's ownership records are of. */
  readonly fromEpoch: number;
  readonly nodes: readonly RecoverNode[];
  readonly vms: readonly RecoverVm[];
  /** One of each node that was reached. */
  readonly journals: readonly { readonly node: string; readonly entries: readonly JournalEntry[] }[];
}

/** What only a person can know. */
export interface RecoverAnswers {
  /** Nodes that are off, and stay off until they are admitted again. */
  readonly off: readonly string[];
  /** Who owns a VM of which the journals say two things, by id. */
  readonly owner: ReadonlyMap<string, string>;
  /** VMs without HA leave the nodes that are off, too. */
  readonly all?: boolean;
}

export interface RecoverQuestion {
  readonly about: 'off' | 'owner';
  /** The node, or the VM's id. */
  readonly subject: string;
  readonly text: string;
}

/** One VM after the merge. */
export interface RecoveredVm {
  readonly id: string;
  readonly name: string;
  readonly ledger: { readonly owner: string; readonly gen: number };
  /** The latest the journals say, and whose; null: none speaks of it. */
  readonly journal: {
    readonly owners: readonly string[];
    readonly gen: number;
    readonly epoch: number;
    readonly said: readonly string[];
  } | null;
  /** Who owns it next; null: a question is open. */
  readonly owner: string | null;
  readonly gen: number;
  /** Others may have owned it since a machine of it that its next owner still has: that one must not go on. */
  readonly fresh: boolean;
  readonly why: string;
}

export interface RecoverPlan {
  /** All VMs of the ledger, by name. */
  readonly vms: readonly RecoveredVm[];
  /** VMs of which only journals know: their description is lost, or they were deleted. */
  readonly lost: readonly JournalEntry[];
  /** Open ones. Nothing may be written before there are none. */
  readonly questions: readonly RecoverQuestion[];
  /** The highest epoch any journal speaks of. */
  readonly epochSeen: number;
}

/**
 * Merges the ownership journals of the nodes into a rebuilt ledger: of each VM the record of the highest epoch and
 * generation counts, whoever has it. Nodes whose journal could not be read may have become the owner of anything, so
 * somebody must vouch that they are off. A VM with HA of such a node goes to one that reaches its disks, as in any
 * failover; one without HA, or whose disks nobody reaches, stays where it is, down.
 *
 * Ties break by name.
 * @see safety 10
 */
export function planRecovery(v: RecoverView, a: RecoverAnswers): RecoverPlan {
  const known = new Set(v.vms.map((m) => m.id));
  const byVm = new Map<string, { node: string; entry: JournalEntry }[]>();
  let epochSeen = v.fromEpoch;
  for (const { node, entries } of v.journals) {
    for (const entry of entries) {
      epochSeen = Math.max(epochSeen, entry.epoch);
      byVm.set(entry.vm, [...(byVm.get(entry.vm) ?? []), { node, entry }]);
    }
  }
  const reachable = new Set(v.nodes.filter((n) => n.reachable).map((n) => n.id));
  const load = new Map<string, number>();
  const vms = [...v.vms]
    .sort((x, y) => (x.name < y.name ? -1 : x.name > y.name ? 1 : x.id < y.id ? -1 : 1))
    .map((m) => merged(m, byVm.get(m.id) ?? [], v.fromEpoch));
  for (const m of vms) {
    const owner = m.owners.length === 1 ? (m.owners[0] ?? null) : (a.owner.get(m.vm.id) ?? null);
    if (owner !== null && reachable.has(owner)) load.set(owner, (load.get(owner) ?? 0) + m.vm.memoryMiB);
  }
  const out = vms.map((m): RecoveredVm => {
    const chosen = m.owners.length === 1 ? (m.owners[0] ?? null) : (a.owner.get(m.vm.id) ?? null);
    const next = chosen === null ? null : settled(m.vm, chosen, v, a.all === true, reachable, load);
    return {
      id: m.vm.id,
      name: m.vm.name,
      ledger: { owner: m.vm.own.owner, gen: m.vm.own.gen },
      journal: m.journal,
      owner: next?.owner ?? null,
      gen: m.highest + generationLeap,
      fresh:
        next !== null &&
        (next.owner !== chosen || m.owners.length > 1 || wasAway(next.owner, byVm.get(m.vm.id) ?? [])),
      why: [m.why, next?.why ?? ''].filter((t) => t !== '').join('; '),
    };
  });
  const lost = [...byVm]
    .filter(([vm]) => !known.has(vm))
    .map(([, said]) => latest(said.map((s) => s.entry))[0] as JournalEntry)
    .sort((x, y) => (x.vm < y.vm ? -1 : 1));
  return { vms: out, lost, questions: questions(v, a, out), epochSeen };
}

/** After this node last noted the VM, another owned it. */
function wasAway(node: string, said: readonly { node: string; entry: JournalEntry }[]): boolean {
  const [own = { epoch: 0, gen: 0 }] = latest(said.filter((s) => s.node === node).map((s) => s.entry));
  return said.some(
    ({ entry: e }) => e.owner !== node && (e.epoch > own.epoch || (e.epoch === own.epoch && e.gen > own.gen)),
  );
}

interface Merged {
  readonly vm: RecoverVm;
  readonly journal: RecoveredVm['journal'];
  /** More than one: the journals disagree. */
  readonly owners: readonly string[];
  readonly highest: number;
  readonly why: string;
}

function merged(
  vm: RecoverVm,
  said: readonly { node: string; entry: JournalEntry }[],
  fromEpoch: number,
): Merged {
  const { own } = vm;
  const highest = Math.max(own.gen, ...said.map((s) => s.entry.gen));
  const top = latest(said.map((s) => s.entry));
  const first = top[0];
  const ledgerSays = { vm, owners: [own.owner], highest };
  if (first === undefined)
    return { ...ledgerSays, journal: null, why: 'no journal speaks of it: the ledger counts' };
  const journal = {
    owners: [...new Set(top.map((e) => e.owner))].sort(),
    gen: first.gen,
    epoch: first.epoch,
    said: said.filter((s) => top.includes(s.entry)).map((s) => s.node),
  };
  const isLater = first.epoch > fromEpoch || (first.epoch === fromEpoch && first.gen > own.gen);
  const isSame = first.epoch === fromEpoch && first.gen === own.gen;
  if (!isLater && !isSame) return { ...ledgerSays, journal, why: 'the ledger is later than the journals' };
  if (isSame) {
    const owners = [...new Set([...journal.owners, own.owner])].sort();
    return {
      vm,
      journal,
      owners,
      highest,
      why: owners.length === 1 ? 'ledger and journals agree' : 'they disagree',
    };
  }
  const who = journal.owners.join(' and ');
  const why = `${who} owned it at generation ${first.gen}, later than the ledger's ${own.gen}`;
  return { vm, journal, owners: journal.owners, highest, why };
}

/** The entries of the highest epoch and generation. */
function latest(entries: readonly JournalEntry[]): JournalEntry[] {
  const [top] = [...entries].sort((x, y) => y.epoch - x.epoch || y.gen - x.gen);
  return top === undefined ? [] : entries.filter((e) => e.epoch === top.epoch && e.gen === top.gen);
}

/** Where a VM goes whose owner is known: it stays with an owner that is here, and leaves one that is not. */
function settled(
  vm: RecoverVm,
  owner: string,
  v: RecoverView,
  all: boolean,
  reachable: ReadonlySet<string>,
  load: Map<string, number>,
): { owner: string; why: string } {
  if (reachable.has(owner)) return { owner, why: '' };
  if (!vm.ha && !all) return { owner, why: `stays down with ${owner}: it has no HA, and --all was not said` };
  const fit = v.nodes.filter((n) => n.reachable && n.runsVms && vm.heirs.includes(n.id)).map((n) => n.id);
  const least = [...fit].sort((x, y) => (load.get(x) ?? 0) - (load.get(y) ?? 0) || (x < y ? -1 : 1))[0];
  const { standby } = vm.own;
  const heir = standby !== null && fit.includes(standby) ? standby : least;
  if (heir === undefined) return { owner, why: `stays down: nobody here reaches its disks but ${owner}` };
  load.set(heir, (load.get(heir) ?? 0) + vm.memoryMiB);
  return { owner: heir, why: `goes from ${owner}, which is off, to ${heir}` };
}

function questions(v: RecoverView, a: RecoverAnswers, vms: readonly RecoveredVm[]): RecoverQuestion[] {
  const out: RecoverQuestion[] = [];
  for (const n of [...v.nodes].sort((x, y) => (x.id < y.id ? -1 : 1))) {
    if (n.reachable || a.off.includes(n.id)) continue;
    const owned = vms.flatMap((m) => {
      const { journal } = m;
      if (journal?.owners.includes(n.id) === true)
        return [`it owned "${m.name}" at generation ${journal.gen} (the ledger has ${m.ledger.gen})`];
      return m.ledger.owner === n.id ? [`it owns "${m.name}" by the ledger`] : [];
    });
    const more = owned.length > 3 ? [`and ${owned.length - 3} more`] : [];
    const about = owned.length === 0 ? ['its journal is unknown, so it may own any VM'] : owned.slice(0, 3);
    out.push({
      about: 'off',
      subject: n.id,
      text: `Is node ${n.id} off? It does not answer; ${[...about, ...more].join(', ')}.`,
    });
  }
  for (const m of vms) {
    if (m.owner !== null) continue;
    const said = [...(m.journal?.owners ?? []), m.ledger.owner];
    const owners = [...new Set(said)].sort().join(' or ');
    out.push({
      about: 'owner',
      subject: m.id,
      text: `Who owns "${m.name}": ${owners}? They say so of the same generation ${m.journal?.gen ?? m.ledger.gen}.`,
    });
  }
  return out;
}

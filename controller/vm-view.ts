import type { Disk } from '../core/domain/disk.js';
import { isHeard, type NodePresence } from '../core/domain/node.js';
import { protectionLevel, type Policy } from '../core/domain/ha.js';
import type { Op } from '../core/domain/op.js';
import type { VmOwn, VmPhase, VmSpec, VmState } from '../core/domain/vm.js';
import type { ServiceClass } from '../core/domain/service-class.js';
import { settingsOf, settingText } from '../core/decide/service-class.js';
import { levelWaits, pairOf } from './pair.js';
import { protectionOf } from './protection.js';
import { vmRowSchema, type VmRow, type VmView } from '../core/wire/rest.js';

/** What one node was heard to say of a VM. */
export interface HeardVm {
  readonly node: string;
  readonly presence: NodePresence;
  readonly state: VmState;
  /** Wall clock of this listener when it was said. */
  readonly heardMs: number;
}

/** All that makes up the view of one VM. */
export interface VmParts {
  readonly spec: VmSpec;
  readonly own: VmOwn | null;
  readonly disks: readonly Disk[];
  /** Its operations, oldest first. */
  readonly ops: readonly Op[];
  /** What its nodes say; in health only the owner. */
  readonly heard: readonly HeardVm[];
  /** Of the owner. */
  readonly presence: NodePresence;
  /** The owner's lease in the ledger stands. */
  readonly ownerLive: boolean;
  readonly policy: Policy;
  /** Its class; null: it is of none, or of one that cannot be read. */
  readonly serviceClass: ServiceClass | null;
  /** Names of the VMs it comes after. */
  readonly afterNames: readonly string[];
}

const open = (op: Op): boolean => op.state === 'queued' || op.state === 'running';

/** What the VM is doing as far as can be known: an old line of a silent owner is not passed off as news. */
export function phaseOf(p: VmParts): { phase: VmPhase; reason: string } {
  const { own } = p;
  if (p.ops.some((o) => o.kind === 'vm.delete' && open(o))) return { phase: 'deleting', reason: '' };
  if (own === null) return { phase: 'unknown', reason: 'its owner record is missing or cannot be read' };
  if (!isHeard(p.presence)) {
    const how = p.presence === 'silent' ? 'is silent' : 'was never heard';
    return { phase: 'unknown', reason: `its owner ${own.owner} ${how}` };
  }
  const said = p.heard.find((h) => h.node === own.owner);
  if (said !== undefined) return { phase: said.state.phase, reason: said.state.reason };
  const create = p.ops.find((o) => o.kind === 'vm.create');
  if (create !== undefined && open(create)) return { phase: 'creating', reason: create.step };
  if (create?.state === 'failed') return { phase: 'failed', reason: create.error?.message ?? '' };
  return { phase: 'unknown', reason: `${own.owner} has not spoken of it yet` };
}

/** Folds the parts to what the API shows. */
export function vmView(p: VmParts): VmView {
  const { spec, own } = p;
  const said = own === null ? undefined : p.heard.find((h) => h.node === own.owner);
  const seen = said?.state ?? null;
  const { phase, reason } = phaseOf(p);
  const known = phase !== 'unknown';
  const ha = protectionOf({ ...p, said: known ? (seen?.ha ?? null) : null });
  return {
    id: spec.id,
    name: spec.name,
    node: own?.owner ?? null,
    presence: p.presence,
    phase,
    reason,
    power: spec.power,
    generation: spec.generation,
    cpus: spec.cpus,
    memoryMiB: spec.memoryMiB,
    diskBytes: p.disks.reduce((n, d) => n + (d.state === 'deleting' ? 0 : d.sizeBytes), 0),
    tags: spec.tags,
    addresses:
      seen !== null && seen.addresses.length > 0
        ? seen.addresses
        : spec.nics.flatMap((n) => (n.address === null ? [] : [n.address])),
    macs: spec.nics.map((n) => n.mac),
    hostname: seen?.hostname ?? null,
    guestAgent: known && (seen?.guestAgent ?? false),
    cpuPct: known ? (seen?.stats?.cpuPct ?? null) : null,
    memoryUsedBytes: known ? (seen?.stats?.memoryUsedBytes ?? null) : null,
    upSinceMs: known ? (seen?.upSinceMs ?? null) : null,
    pendingRestart: [...(seen?.pendingRestart ?? []), ...(levelWaits(spec, own) ? [levelText(spec)] : [])],
    heardMs: said?.heardMs ?? null,
    ops: p.ops.filter(open).map((o) => o.id),
    error: seen?.error ?? null,
    level: protectionLevel(spec.ha),
    ha,
    pair: pairOf(spec, own, ha),
    className: p.serviceClass?.name ?? null,
    spec,
    own,
    observed: seen,
    disks: [...p.disks],
    afterNames: [...p.afterNames],
    settings: settingsBy(p),
    problems: problemsOf(p),
  };
}

const levelText = (spec: VmSpec): string =>
  protectionLevel(spec.ha) === 'lockstep'
    ? 'protection becomes lockstep'
    : 'protection is no longer lockstep';

function settingsBy(p: VmParts): VmView['settings'] {
  const own = p.spec.class?.own ?? [];
  return Object.entries(settingsOf(p.spec, p.disks)).map(([k, value]) => {
    const setting = k as VmView['settings'][number]['setting'];
    const said = p.serviceClass?.settings[setting] !== undefined;
    return {
      setting,
      text: settingText(value),
      by: p.serviceClass === null || !said ? 'vm' : own.includes(setting) ? 'own' : 'class',
    };
  });
}

const active: ReadonlySet<VmPhase> = new Set<VmPhase>(['starting', 'running', 'paused', 'stopping']);

function problemsOf(p: VmParts): string[] {
  const out: string[] = [];
  for (const h of p.heard) {
    // What a silent node said last is no news: it may be off.
    if (h.node !== p.own?.owner && h.presence !== 'silent' && active.has(h.state.phase))
      out.push(`${h.node} says it is ${h.state.phase} there, but does not own it`);
  }
  for (const d of p.spec.disks) {
    const disk = p.disks.find((x) => x.id === d.disk);
    if (disk === undefined) out.push(`its disk ${d.disk} has no readable record`);
    else if (disk.state === 'failed')
      out.push(`its disk "${disk.name}" failed: ${disk.error?.message ?? 'no reason was given'}`);
  }
  return out;
}

const rowFields = Object.keys(vmRowSchema.shape) as (keyof VmRow)[];

/** The part of a view that lists show. */
export function vmRow(v: VmView): VmRow {
  return Object.fromEntries(rowFields.map((f) => [f, v[f]])) as VmRow;
}

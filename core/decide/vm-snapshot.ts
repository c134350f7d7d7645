import { isReplicated, type Disk } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import type { Pool } from '../domain/pool.js';
import { cloudInitSchema, type VmOwn, type VmSpec } from '../domain/vm.js';
import {
  vmSnapshotsMax,
  type Consistency,
  type SnapshotDisk,
  type VmSnapshot,
} from '../domain/vm-snapshot.js';
import type { VmCreateInput } from '../wire/rest.js';
import type { SnapshotKind, SnapshotSchedule } from '../domain/snapshot-schedule.js';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
/** 1970 began on a Thursday: weeks begin on Mondays. */
const mondayMs = 3 * dayMs;

export interface NewSnapshot {
  readonly id: string;
  readonly name: string;
  readonly note: string;
  readonly consistency: Exclude<Consistency, 'stopped'>;
  readonly keptFor: readonly SnapshotKind[];
  readonly nowMs: number;
  newId(): string;
}

export interface SnapshotSubject {
  readonly spec: VmSpec;
  readonly own: VmOwn;
  /** Its disks. */
  readonly disks: readonly Disk[];
  pool(id: string): Pool | undefined;
  /** Its snapshots, those on their way out too. */
  readonly snapshots: readonly VmSnapshot[];
}

/**
 * The record of a snapshot that is to be taken by the VM's owner.
 *
 * @throws FlotillaError `wrong-state`: it has no disk, or one that is not ready; `name-taken`; `ledger-full`
 */
export function newSnapshot(v: SnapshotSubject, o: NewSnapshot): VmSnapshot {
  const { spec, own } = v;
  const refuse = (why: string, hint: string): FlotillaError =>
    new FlotillaError('wrong-state', `No snapshot is taken of VM "${spec.name}": ${why}`, { hint });
  // What is detached nobody writes to, and no machine has it.
  const attached = spec.disks.filter((d) => d.detached !== true);
  if (attached.length === 0) throw refuse('it has no disk', 'Give it one first.');
  if (own.lockstep && own.state !== 'stopped')
    throw refuse('it is in lockstep', 'Stop it first, or take it out of lockstep.');
  if (v.snapshots.length >= vmSnapshotsMax)
    throw new FlotillaError('ledger-full', `VM "${spec.name}" has ${vmSnapshotsMax} snapshots already`, {
      hint: 'Delete some: flotilla snapshot list.',
    });
  if (v.snapshots.some((x) => x.name === o.name))
    throw new FlotillaError('name-taken', `VM "${spec.name}" has a snapshot "${o.name}" already`, {
      hint: 'Give it another name, or delete that one.',
    });
  let here = false;
  const disks = attached.map(({ disk: id, bus }): SnapshotDisk => {
    const disk = v.disks.find((d) => d.id === id);
    const pool = disk && v.pool(disk.pool);
    if (disk === undefined || pool === undefined || disk.state !== 'ready')
      throw refuse(`its disk ${disk?.name ?? id} is not ready`, 'See flotilla vm show.');
    here ||= pool.kind !== 'shared';
    return {
      id: o.newId(),
      disk: id,
      name: disk.name,
      pool: disk.pool,
      format: disk.format,
      bus,
      // An enlargement that is asked for and not done is not in it.
      sizeBytes: disk.madeBytes,
      replicated: isReplicated(disk),
      usedBytes: null,
    };
  });
  return {
    id: o.id,
    vm: spec.id,
    name: o.name,
    note: o.note,
    node: here ? own.owner : null,
    disks,
    consistency: o.consistency,
    state: 'wanted',
    takenMs: o.nowMs,
    keptFor: [...o.keptFor],
    error: null,
  };
}

/** Bytes that it holds; null: not taken. */
export const snapshotBytes = (x: Pick<VmSnapshot, 'disks'>): number | null =>
  x.disks.reduce<number | null>((n, d) => (n === null || d.usedBytes === null ? null : n + d.usedBytes), 0);

/**
 * Why its data is out of reach of that node, or it is no whole snapshot.
 *
 * @throws FlotillaError `wrong-state`
 */
export function checkUsable(x: VmSnapshot, node: string, what: string): void {
  if (x.state !== 'ready')
    throw new FlotillaError('wrong-state', `${what}: snapshot "${x.name}" is ${x.state}, not ready`, {
      hint: 'Choose one that is ready: flotilla snapshot list.',
    });
  if (x.node !== null && x.node !== node)
    throw new FlotillaError(
      'wrong-state',
      `${what}: snapshot "${x.name}" lies on ${x.node}, not on ${node}`,
      {
        hint: `Snapshots stay where they were taken. Move the VM to ${x.node} first, or make a new one from it there: flotilla vm clone.`,
      },
    );
}

/** What a revert makes of a VM: written in one transaction. */
export interface Revert {
  readonly spec: VmSpec;
  /** New ones, those they take the place of, and those that are written over. */
  readonly disks: readonly Disk[];
}

/**
 * The VM with its disks as they were. Each gets a new disk made from the snapshot, and the old one goes: nothing is half
 * done whatever breaks off. A disk with two copies stays itself and is written over, on both nodes at once.
 *
 * @throws FlotillaError `wrong-state`: it is not off; the snapshot is elsewhere or not whole; the VM got a disk since
 */
export function revertTo(
  v: Omit<SnapshotSubject, 'snapshots'>,
  x: VmSnapshot,
  o: { newId(): string },
): Revert {
  const { spec, own } = v;
  const what = `VM "${spec.name}" is not reverted`;
  const refuse = (why: string, hint: string): FlotillaError =>
    new FlotillaError('wrong-state', `${what}: ${why}`, { hint });
  if (own.state !== 'stopped' || spec.power !== 'stopped') throw refuse('it is not off', 'Stop it first.');
  checkUsable(x, own.owner, what);
  const detached = spec.disks.filter((d) => d.detached === true);
  const mine = spec.disks
    .filter((d) => d.detached !== true)
    .map(({ disk: id }) => v.disks.find((d) => d.id === id));
  const aside = v.disks.find(
    (d) => detached.some((y) => y.disk === d.id) && x.disks.some((y) => y.name === d.name),
  );
  if (aside !== undefined)
    throw refuse(`its disk "${aside.name}" is detached`, 'Attach it first: flotilla vm edit.');
  const out: Disk[] = [];
  for (const d of mine) {
    if (d === undefined) throw refuse('one of its disks has no record', 'Its records must be mended first.');
    if (x.disks.some((y) => y.name === d.name)) continue;
    throw refuse(
      `its disk "${d.name}" is not in snapshot "${x.name}"`,
      `Remove the disk first, or snapshot it: what is on it would be lost.`,
    );
  }
  const disks = x.disks.map((y) => {
    const old = mine.find((d) => d?.name === y.name);
    const source = { kind: 'snapshot', snapshot: x.id, volume: y.id } as const;
    const pool = v.pool(y.pool);
    if (pool === undefined) throw refuse(`the pool of its disk "${y.name}" is gone`, 'Make a clone instead.');
    if (old !== undefined && (isReplicated(old) || y.replicated)) {
      if (!isReplicated(old) || old.id !== y.disk || old.madeBytes !== y.sizeBytes)
        throw refuse(
          `its disk "${old.name}" has had other copies or another size since`,
          'Make a new VM from the snapshot: flotilla vm clone.',
        );
      if (own.sync === 'stale')
        throw refuse(`its other copy is out of date`, 'Wait until both are in sync: flotilla vm show.');
      out.push({ ...old, source, state: 'wanted', error: null });
      return { disk: old.id, bus: y.bus };
    }
    const made: Disk = {
      id: o.newId(),
      name: y.name,
      vm: spec.id,
      pool: y.pool,
      node: pool.kind === 'shared' ? null : own.owner,
      format: y.format,
      sizeBytes: y.sizeBytes,
      madeBytes: 0,
      source,
      state: 'wanted',
      error: null,
    };
    out.push(made);
    if (old !== undefined) out.push({ ...old, state: 'deleting' });
    return { disk: made.id, bus: y.bus };
  });
  return { spec: { ...spec, disks: [...disks, ...detached], generation: spec.generation + 1 }, disks: out };
}

/** The hour, day or week that a moment lies in, by UTC. */
const periodOf = (kind: SnapshotKind, ms: number): number => {
  if (kind === 'hourly') return Math.floor(ms / hourMs);
  if (kind === 'daily') return Math.floor(ms / dayMs);
  return Math.floor((ms + mondayMs) / (7 * dayMs));
};

const kinds = ['hourly', 'daily', 'weekly'] as const;

/**
 * What a VM's schedule wants done now. One is due as soon as an hour, day or week has none; of those missed while nobody
 * could take them one is made up for. One snapshot counts for all that are due.
 *
 * @param snapshots - of this VM
 * @param nowMs - wall clock
 */
export function decideSchedule(
  schedule: SnapshotSchedule | undefined,
  snapshots: readonly VmSnapshot[],
  nowMs: number,
): { readonly due: readonly SnapshotKind[]; readonly expired: readonly VmSnapshot[] } {
  // One that was ended leaves what it took: that is for people to delete.
  if (schedule === undefined) return { due: [], expired: [] };
  const mine = snapshots.filter((x) => x.keptFor.length > 0 && x.state !== 'deleting');
  const due: SnapshotKind[] = [];
  const kept = new Set<string>();
  for (const kind of kinds) {
    const most = schedule[kind];
    const of = mine
      .filter((x) => x.keptFor.includes(kind) && x.state === 'ready')
      .sort((a, b) => b.takenMs - a.takenMs || (a.id < b.id ? -1 : 1));
    for (const x of of.slice(0, most)) kept.add(x.id);
    const there = mine.filter((x) => x.keptFor.includes(kind) && x.state !== 'failed');
    // A clock that was set back: nothing is due until it has come by again.
    const has = there.some((x) => periodOf(kind, x.takenMs) >= periodOf(kind, nowMs));
    if (most > 0 && !has) due.push(kind);
  }
  // One that failed says why until there is a newer one.
  const lastMs = Math.max(...mine.map((x) => x.takenMs));
  const expired = mine.filter((x) =>
    x.state === 'ready' ? !kept.has(x.id) : x.state === 'failed' && x.takenMs < lastMs,
  );
  return { due, expired };
}

/** Of one that nobody named: `hourly 2026-11-29 10:05`, with the largest of its kinds. */
export const scheduledName = (due: readonly SnapshotKind[], nowMs: number): string =>
  `${due.at(-1) ?? 'hourly'}-${new Date(nowMs).toISOString().slice(0, 16).replace('T', '-').replace(':', '')}`;

/** A VM's name as the host name of its guest; null: nothing is left of it. */
export function hostNameFor(name: string): string | null {
  const host = name.toLowerCase().replaceAll(/[^a-z0-9-]+/g, '-');
  return cloudInitSchema.shape.hostname.safeParse(host.replace(/^-+|-+$/g, '').slice(0, 63)).data ?? null;
}

/**
 * What a new VM is made of that begins as this one was. It has its own id, MACs, addresses and host name; it is in no vApp, keeps
 * no other VM waiting, has empty CD drives, and one copy of each disk.
 *
 * @throws FlotillaError `wrong-state`: the snapshot is not ready
 */
export function cloneOf(
  spec: VmSpec,
  x: VmSnapshot,
  o: {
    readonly name: string;
    readonly node: string | undefined;
    readonly power: 'running' | 'stopped';
    /** Whether all its disks are within reach of every node, so that it may have the HA of its original. */
    readonly shared: boolean;
  },
): VmCreateInput {
  const what = `No VM "${o.name}" is made`;
  checkUsable(x, x.node ?? '', what);
  if (x.node !== null && o.node !== undefined && o.node !== x.node)
    throw new FlotillaError('wrong-state', `${what} on ${o.node}: snapshot "${x.name}" lies on ${x.node}`, {
      hint: `Name ${x.node}, or no node; it can move afterwards.`,
    });
  const node = x.node ?? o.node;
  return {
    name: o.name,
    note: spec.note,
    tags: spec.tags,
    cpus: spec.cpus,
    memoryMiB: spec.memoryMiB,
    firmware: spec.firmware,
    boot: spec.boot,
    disks: x.disks.map((d) => ({ name: d.name, pool: d.pool, bus: d.bus, format: d.format })),
    cdroms: spec.cdroms.map(() => ({ image: null })),
    nics: spec.nics.map((n) => ({
      network: n.network,
      model: n.model,
      address: n.address === null ? null : 'auto',
    })),
    cloudInit: spec.cloudInit === null ? null : { ...spec.cloudInit, hostname: hostNameFor(o.name) },
    power: o.power,
    stopTimeoutS: spec.stopTimeoutS,
    onCrash: spec.onCrash,
    ha: { ...spec.ha, enabled: spec.ha.enabled && o.shared, lockstep: false, after: [] },
    autoMove: spec.autoMove !== false,
    ...(spec.cpuShares === undefined ? {} : { cpuShares: spec.cpuShares }),
    ...(node === undefined ? {} : { node }),
  };
}

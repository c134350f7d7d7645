import { isReplicated, type Disk } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import { thinPieceBytes, type Pool } from '../domain/pool.js';
import type { Op } from '../domain/op.js';
import type { VmOwn, VmSpec } from '../domain/vm.js';

/** The disk in its machine, as libvirt says. */
export interface DiskInMachine {
  /** The volume that the machine uses. */
  readonly path: string;
  /** What it is being copied to. */
  readonly mirror: { readonly path: string; readonly ready: boolean } | null;
}

export interface DiskMoveView {
  readonly me: string;
  readonly op: Pick<Op, 'cancelAsked'>;
  readonly spec: Pick<VmSpec, 'disks' | 'power'>;
  readonly own: Pick<VmOwn, 'owner' | 'state'>;
  /** The disk that moves, and the one that takes its place; null: it has no record. */
  readonly from: Disk | null;
  readonly to: Disk | null;
  /** Where the new one lies here. */
  readonly toPath: string;
  /** The VM's machine is here and on. */
  readonly active: boolean;
  /** Null: it is not in the machine. */
  readonly inMachine: DiskInMachine | null;
}

export type DiskMoveStep =
  /** Not now, in words. */
  | { readonly do: 'wait'; readonly why: string }
  /** QEMU copies it while the guest writes. `adopt`: it does already, begun by an earlier agent. */
  | { readonly do: 'mirror'; readonly adopt: boolean }
  /** The machine uses the new one: say so in the ledger. */
  | { readonly do: 'swap' }
  /** Nothing has it open: a plain copy. */
  | { readonly do: 'copy' }
  /** It was done, and only the operation does not say so. */
  | { readonly do: 'finish' }
  | { readonly do: 'undo'; readonly why: string | null };

/**
 * The next step in moving a disk to another volume. Whoever dies, the next agent finds from ledger and machine where it is:
 * until the ledger names the new one, the old one has all; the machine stands still from the last write to the old one to that.
 *
 * @see docs/storage.md, safety 13
 */
export function decideDiskMove(v: DiskMoveView): DiskMoveStep {
  const { spec, from, to, inMachine } = v;
  if (v.own.owner !== v.me) return { do: 'wait', why: `${v.own.owner} owns it` };
  if (to !== null && spec.disks.some((d) => d.disk === to.id)) return { do: 'finish' };
  // Past the point where it could be left: the guest may not go on before the ledger names what it writes to.
  if (to !== null && v.active && inMachine?.path === v.toPath) return { do: 'swap' };
  const entry = spec.disks.find((d) => d.disk === from?.id);
  if (from === null || to === null || entry === undefined || from.state === 'deleting')
    return { do: 'undo', why: 'the disk is gone' };
  if (v.op.cancelAsked) return { do: 'undo', why: null };
  if (to.node !== null && to.node !== v.me)
    return { do: 'undo', why: `its new place is on ${to.node}, which does not own the VM any more` };
  if (to.state === 'failed') return { do: 'undo', why: to.error?.message ?? 'its new volume cannot be made' };
  if (to.state !== 'ready') return { do: 'wait', why: 'its new volume is being made' };
  if (v.own.state === 'migrating') return { do: 'wait', why: 'the VM migrates' };
  if (inMachine !== null && v.active) {
    if (v.own.state !== 'running') return { do: 'wait', why: 'the VM is being found again' };
    const { mirror } = inMachine;
    if (mirror !== null && mirror.path !== v.toPath)
      return { do: 'undo', why: 'the disk is being copied already, and not by Flotilla' };
    return { do: 'mirror', adopt: mirror !== null };
  }
  if (entry.detached === true && !v.active && v.own.state === 'running')
    return { do: 'wait', why: 'the VM starts' };
  if (entry.detached === true) return { do: 'copy' };
  if (v.active) return { do: 'wait', why: 'the disk is not in the machine yet' };
  if (spec.power === 'stopped' && v.own.state === 'stopped') return { do: 'copy' };
  return { do: 'wait', why: 'the VM starts or stops' };
}

/** Spec and disks after the new one took the place; what machines call the device stays. */
export function withMoved(
  spec: VmSpec,
  from: Disk,
  to: Disk,
): { readonly spec: VmSpec; readonly from: Disk; readonly to: Disk } {
  const { instead: _, ...placed } = to;
  const device = from.device ?? from.id;
  return {
    spec: {
      ...spec,
      generation: spec.generation + 1,
      disks: spec.disks.map((d) => (d.disk === from.id ? { ...d, disk: to.id } : d)),
    },
    from: { ...from, state: 'deleting' },
    to: { ...placed, device },
  };
}

/** Where a disk is to be. */
export interface DiskPlace {
  readonly pool: Pool;
  readonly format: Disk['format'] | undefined;
  readonly replicas: 1 | 2 | undefined;
}

/**
 * The disk that is to take another one's place.
 *
 * @param owner - the node of its VM
 * @throws FlotillaError `bad-input`: there is no such place, or it is there; `wrong-state`: not now
 */
export function movedDisk(
  who: string,
  from: Disk,
  place: DiskPlace,
  o: { readonly id: string; readonly owner: string },
): Disk {
  const { pool } = place;
  const what = `Disk "${from.name}" of ${who}`;
  if (from.state !== 'ready' || from.madeBytes < from.sizeBytes)
    throw new FlotillaError('wrong-state', `${what} is still being made or enlarged`, {
      hint: 'Ask again when that is done.',
    });
  const thin = pool.kind === 'thin';
  const replicas = place.replicas ?? (isReplicated(from) ? 2 : 1);
  if (replicas === 2 && !thin)
    throw new FlotillaError(
      'bad-input',
      `${what}: only pools of kind thin hold two copies, "${pool.name}" is ${pool.kind}`,
      { hint: 'Choose a thin pool, or say that one copy is enough: replicas 1.' },
    );
  const format = thin ? 'raw' : (place.format ?? from.format);
  if (thin && place.format === 'qcow2')
    throw new FlotillaError('bad-input', `${what}: disks of a thin pool are raw`, {
      hint: 'Leave the format out.',
    });
  const same = pool.id === from.pool && format === from.format && (replicas === 2) === isReplicated(from);
  if (same && from.source.kind === 'blank')
    throw new FlotillaError('bad-input', `${what} is there already`, {
      hint: 'Name another pool, format or number of copies.',
    });
  // Behind a pair's data its notes are rounded up to a piece: its device may be larger than the disk by less than one.
  const room = isReplicated(from) && replicas === 1 ? thinPieceBytes : 0;
  const bytes = from.sizeBytes + room;
  const { replicas: _, instead: _i, device: _d, ...rest } = from;
  return {
    ...rest,
    id: o.id,
    pool: pool.id,
    ...(replicas === 2 ? { replicas } : {}),
    node: pool.kind === 'shared' || replicas === 2 ? null : o.owner,
    format,
    sizeBytes: thin ? Math.ceil(bytes / thinPieceBytes) * thinPieceBytes : bytes,
    madeBytes: 0,
    source: { kind: 'blank' },
    instead: from.id,
    state: 'wanted',
    error: null,
  };
}

/** Where a disk goes, for people. */
export const placeText = (pool: Pick<Pool, 'name'>, to: Pick<Disk, 'replicas'>): string =>
  `pool "${pool.name}"${isReplicated(to) ? ', with two copies' : ''}`;

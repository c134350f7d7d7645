import {
  decideSchedule,
  newSnapshot,
  revertTo,
  scheduledName,
  snapshotBytes,
  type SnapshotSubject,
} from '../../core/decide/vm-snapshot.js';
import { notWhole } from '../../core/decide/second-node.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { isReplicated, needsSnapshot, type Disk } from '../../core/domain/disk.js';
import { opFinished, queuedOp, type Op } from '../../core/domain/op.js';
import { poolHasNode } from '../../core/domain/pool.js';
import { formatSize } from '../../core/domain/units.js';
import { snapshotArgs, type VmSnapshot } from '../../core/domain/vm-snapshot.js';
import { ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import { LibvirtError } from '../libvirt/hypervisor.js';
import type { OpBook } from '../op-book.js';
import { OpJobs } from '../op-jobs.js';
import { keptNow, type Kept, type Snapshot } from '../snapshot.js';
import type { Observed } from '../vm/domains.js';
import { staleView, type Ownership, type Subject } from '../vm/ownership.js';
import type { Turns } from '../vm/turns.js';
import { SnapshotTaker } from './snapshot-taker.js';

/** Taken at the same time on one node: copying files fights for the same drives. */
const atOnce = 2;
/** What could not be removed, or was not taken as scheduled, is tried again after this long, ms. */
const removeAgainMs = 30_000;
const scheduleAgainMs = 10 * 60_000;

/** What may be under way on a VM while it is snapshotted: nothing of it touches what its disks are, or where. */
const harmless: ReadonlySet<Op['kind']> = new Set<Op['kind']>([
  'vm.start',
  'vm.stop',
  'vm.force-stop',
  'vm.reboot',
  'vm.reset',
  'vm.pause',
  'vm.resume',
  'vm.failover',
  'vm.export',
]);

/** Snapshots of this node's VMs: takes them, goes back to them, takes them away, and does as schedules say. */
export class SnapshotDesk {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly own: Ownership;
  private readonly turns: Turns;
  private readonly taker: SnapshotTaker;
  private readonly jobs: OpJobs;
  private readonly wake: () => void;
  private domains: ReadonlyMap<string, Observed> = new Map();
  /** Being removed, or when that failed. */
  private readonly removing = new Set<string>();
  private readonly removeMs = new Map<string, number>();
  /** When a VM's schedule was last acted on. */
  private readonly scheduledMs = new Map<string, number>();
  private readonly scheduling = new Set<string>();

  constructor(env: AgentEnv, ops: OpBook, own: Ownership, turns: Turns, wake: () => void) {
    this.env = env;
    this.ops = ops;
    this.own = own;
    this.turns = turns;
    this.wake = wake;
    this.taker = new SnapshotTaker(env, turns);
    this.jobs = new OpJobs(env, {
      atOnce,
      takes: (op) => {
        const args = snapshotArgs(op);
        // A revert that is written goes on as its disks are made, an export by the ExportWorker.
        return args !== null && args['generation'] === undefined && args.taken !== true;
      },
      work: (kept, s, signal) => this.work(kept, s, signal),
      wake,
    });
  }

  stop(): void {
    this.jobs.stop();
  }

  /** Begins what is to be done. Never waits. */
  look(s: Snapshot, domains: ReadonlyMap<string, Observed>): void {
    this.domains = domains;
    this.jobs.look(s);
    if (this.env.live.compare() === null || s.meta === null) return;
    for (const kept of s.ops.values()) this.endOrphan(kept, s);
    const byVm = new Map<string, VmSnapshot[]>();
    for (const kept of s.vmSnapshots.values()) {
      const x = kept.value;
      byVm.set(x.vm, [...(byVm.get(x.vm) ?? []), x]);
      if (x.state === 'deleting') this.remove(kept, s);
      else if (x.forOp !== undefined) this.endWith(kept, x.forOp, s);
    }
    for (const [id, spec] of s.specs)
      if (spec.value.snapshots !== undefined && s.owns.get(id)?.value.owner === this.env.node)
        this.schedule(id, byVm.get(id) ?? [], s);
  }

  private async work(kept: Kept<Op>, s: Snapshot, signal: AbortSignal): Promise<void> {
    const op = kept.value;
    const args = snapshotArgs(op);
    if (args === null) return;
    try {
      if (op.kind === 'vm.snapshot') {
        const x = await this.take(kept, args.snapshot, s, signal);
        const bytes = snapshotBytes(x);
        const text = `snapshot "${x.name}" is taken${bytes === null ? '' : `: ${formatSize(bytes)}`}`;
        await this.end(op.id, (k) => this.ops.finish(k, 'done', text));
      } else if (op.kind === 'vm.export') {
        await this.take(kept, args.snapshot, s, signal);
        await this.end(op.id, async (k) => {
          await this.ops.change(k, { args: { ...k.value.args, taken: true } });
        });
      } else {
        if (args.before !== null) await this.take(kept, args.before, s, signal);
        await this.revert(op.id, args.snapshot, s);
      }
    } catch (e) {
      if (this.jobs.stopped) return; // begun anew after the restart
      const error = signal.aborted
        ? new FlotillaError('cancelled', `The snapshot of VM "${op.subject.name}" was cancelled`, {
            hint: 'Nothing of it was kept.',
            cause: e,
          })
        : e instanceof LibvirtError
          ? new FlotillaError(
              'hypervisor-error',
              `VM "${op.subject.name}" was not snapshotted: ${e.message}`,
              {
                hint: 'It may have stopped or moved meanwhile; its disks are as they were. Try again.',
                cause: e,
              },
            )
          : e;
      if (error instanceof FlotillaError && ['ledger-unavailable', 'stale-view'].includes(error.code)) {
        await this.env.clock.sleep(1_000);
        return;
      }
      announce(this.env, 'warning', op.subject.name, errorRecord(error).message);
      const taken = op.kind === 'vm.revert' ? args.before : args.snapshot;
      if (taken !== null) await this.failed(taken, error, s).catch(() => undefined);
      await this.end(op.id, (k) => this.ops.fail(k, error)).catch(() => undefined);
    }
  }

  /** A revert whose VM was deleted while its disks were made: nobody else ends it. */
  private endOrphan(kept: Kept<Op>, s: Snapshot): void {
    const { kind, node, subject } = kept.value;
    if (kind !== 'vm.revert' || node !== this.env.node || opFinished(kept.value)) return;
    if (s.specs.has(subject.id) || s.unreadable.includes(kinds.vmSpec.key(subject.id))) return;
    void this.ops.finish(kept, 'cancelled', 'the VM was deleted').catch(() => undefined);
  }

  /** One that was taken for an operation goes when that has ended, however. */
  private endWith(kept: Kept<VmSnapshot>, opId: string, s: Snapshot): void {
    const op = s.ops.get(opId)?.value;
    if (op === undefined ? s.unreadable.includes(kinds.op.key(opId)) : !opFinished(op)) return;
    if (this.isMine(kept.value, s))
      void this.put(kept, { ...kept.value, state: 'deleting' }).catch(() => undefined);
  }

  private async end(id: string, act: (k: Kept<Op>) => Promise<void>): Promise<void> {
    const kept = await this.ops.latest(id);
    if (kept !== null) await act(kept);
  }

  /** Takes one that is wanted; one that was taken already is that. */
  private async take(kept: Kept<Op>, id: string, s: Snapshot, signal: AbortSignal): Promise<VmSnapshot> {
    const op = kept.value;
    const first = await this.latest(id);
    if (first === null || first.value.state === 'deleting')
      throw new FlotillaError('cancelled', `The snapshot of VM "${op.subject.name}" was deleted`, {
        hint: 'Take another.',
      });
    if (first.value.state === 'ready') return first.value;
    const subject = this.subject(op, s);
    const { spec, own } = subject;
    const refuse = (why: string, hint: string): FlotillaError =>
      new FlotillaError('wrong-state', `No snapshot is taken of VM "${spec.value.name}": ${why}`, { hint });
    if (own.value.state === 'migrating') throw refuse('it migrates', 'Take it when it has arrived.');
    const other = [...s.ops.values()].find(
      ({ value: o }) =>
        o.subject.id === subject.id && o.id !== op.id && !opFinished(o) && !harmless.has(o.kind),
    );
    if (other !== undefined) throw refuse(`${other.value.kind} is under way`, 'Take it when that has ended.');
    const parts = first.value.disks.map((volume) => {
      const disk = s.disks.get(volume.disk)?.value;
      const pool = s.pools.get(volume.pool)?.value;
      if (disk === undefined || pool === undefined || disk.state !== 'ready' || disk.pool !== volume.pool)
        throw refuse(`its disk "${volume.name}" has changed since`, 'Take it again.');
      if (pool.kind !== 'shared' && first.value.node !== this.env.node)
        throw refuse(`it has moved to ${this.env.node} since`, 'Take it again.');
      return { volume, disk, pool };
    });
    const taken = await this.taker.take({
      spec: spec.value,
      gen: own.value.gen,
      snapshot: first.value,
      parts,
      domain: subject.domain,
      again: op.state === 'running',
      signal,
      whole: async () => {
        if (!s.replicas.has(subject.id) || !parts.some((p) => isReplicated(p.disk))) return;
        const pair = (await this.env.replication?.observe())?.pairs.get(subject.id) ?? null;
        const why = notWhole(own.value, this.env.node, pair);
        if (why !== null) throw refuse(why, 'Take it when its copies are the same again: flotilla vm show.');
      },
      progress: (share, step) => this.ops.progress(op, share, step),
      mark: async (step) => {
        const now = await this.ops.latest(op.id);
        if (now === null || (await this.ops.change(now, { state: 'running', step })) === null)
          throw staleView(subject);
      },
    });
    const next: VmSnapshot = { ...first.value, ...taken, state: 'ready', error: null };
    if (!(await this.put(first, next)))
      throw new FlotillaError('cancelled', `The snapshot of VM "${op.subject.name}" was deleted meanwhile`, {
        hint: 'Take another.',
      });
    announce(this.env, 'info', op.subject.name, `snapshot "${next.name}" is taken`);
    return next;
  }

  /** Writes that the VM's disks are to be as they were; that they are made follows. */
  private async revert(opId: string, id: string, s: Snapshot): Promise<void> {
    const { env } = this;
    const kept = await this.ops.latest(opId);
    if (kept === null) return;
    const { id: vm } = kept.value.subject;
    await this.turns.wait(vm, env.clock);
    try {
      const x = await this.latest(id);
      if (x === null)
        throw new FlotillaError('not-found', 'The snapshot to go back to is gone', {
          hint: 'Choose another.',
        });
      const subject = this.subject(kept.value, await this.fresh(vm, s));
      const disks = [...subject.snapshot.disks.values()].filter((d) => d.value.vm === vm);
      const back = revertTo(
        {
          spec: subject.spec.value,
          own: subject.own.value,
          disks: disks.map((d) => d.value),
          pool: (p) => subject.snapshot.pools.get(p)?.value,
        },
        x.value,
        { newId: () => env.random.uuid() },
      );
      const op: Op = {
        ...kept.value,
        state: 'running',
        step: 'makes its disks as they were',
        args: { ...kept.value.args, generation: back.spec.generation },
        updatedMs: env.clock.wallMs(),
      };
      const specKey = kinds.vmSpec.key(vm);
      const compare: Compare[] = [
        ...this.own.guard(subject),
        { key: specKey, modRevision: subject.spec.modRevision },
        { key: kinds.op.key(opId), modRevision: kept.modRevision },
        { key: kinds.vmSnapshot.key(id), modRevision: x.modRevision },
      ];
      const writes: Write[] = [
        { put: specKey, value: writeRecord(kinds.vmSpec, back.spec) },
        { put: kinds.op.key(opId), value: writeRecord(kinds.op, op) },
      ];
      for (const d of back.disks) {
        const key = kinds.disk.key(d.id);
        compare.push({ key, modRevision: disks.find((k) => k.value.id === d.id)?.modRevision ?? 0n });
        writes.push({ put: key, value: writeRecord(kinds.disk, d) });
      }
      const r = await env.ledger.txn(compare, writes);
      if (!r.done) throw staleView(subject);
      env.radio.say('op', op, op.id);
      announce(env, 'info', subject.spec.value.name, `goes back to snapshot "${x.value.name}"`);
    } finally {
      this.turns.end(vm);
    }
  }

  private schedule(id: string, mine: readonly VmSnapshot[], s: Snapshot): void {
    const spec = s.specs.get(id);
    const { clock } = this.env;
    if (spec === undefined || this.scheduling.has(id)) return;
    const { due, expired } = decideSchedule(spec.value.snapshots, mine, clock.wallMs());
    const lastMs = this.scheduledMs.get(id) ?? -Infinity;
    const busy = [...s.ops.values()].some(({ value: o }) => o.subject.id === id && !opFinished(o));
    const take = due.length > 0 && !busy && clock.nowMs() - lastMs >= scheduleAgainMs;
    if (!take && expired.length === 0) return;
    this.scheduling.add(id);
    void (async () => {
      for (const x of expired) {
        const kept = s.vmSnapshots.get(x.id);
        if (kept !== undefined) await this.put(kept, { ...x, state: 'deleting' });
      }
      if (!take) return;
      this.scheduledMs.set(id, clock.nowMs());
      const own = s.owns.get(id);
      if (own === undefined) return;
      const subject: SnapshotSubject = {
        spec: spec.value,
        own: own.value,
        disks: [...s.disks.values()].map((k) => k.value).filter((d) => d.vm === id),
        pool: (p) => s.pools.get(p)?.value,
        snapshots: mine,
      };
      const nowMs = clock.wallMs();
      const newId = (): string => this.env.random.uuid();
      const x = newSnapshot(subject, {
        id: newId(),
        name: uniqueName(scheduledName(due, nowMs), mine),
        note: '',
        consistency: 'auto',
        keptFor: due,
        nowMs,
        newId,
      });
      const op = queuedOp(
        {
          id: newId(),
          kind: 'vm.snapshot',
          subject: { kind: 'vm', id, name: spec.value.name },
          node: this.env.node,
          askedBy: 'schedule',
          args: { snapshot: x.id },
        },
        nowMs,
      );
      await this.env.ledger.txn(
        [
          ...this.own.guard({ id, spec, own, domain: null, snapshot: s }),
          { key: kinds.vmSpec.key(id), modRevision: spec.modRevision },
          { key: kinds.vmSnapshot.key(x.id), modRevision: 0n },
          { key: kinds.op.key(op.id), modRevision: 0n },
        ],
        [
          { put: kinds.vmSnapshot.key(x.id), value: writeRecord(kinds.vmSnapshot, x) },
          { put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) },
        ],
      );
    })()
      .catch((e: unknown) =>
        this.env.log.warn(`the schedule of VM "${spec.value.name}": ${errorRecord(e).message}`),
      )
      .finally(() => {
        this.scheduling.delete(id);
        this.wake();
      });
  }

  /** Takes the volumes of one away, then its record, where it is for this node to do. */
  private remove(kept: Kept<VmSnapshot>, s: Snapshot): void {
    const x = kept.value;
    const { node, clock } = this.env;
    if (this.removing.has(x.id) || !this.isMine(x, s)) return;
    if (clock.nowMs() - (this.removeMs.get(x.id) ?? -Infinity) < removeAgainMs) return;
    const inWork = [...s.ops.values()].some(({ value: o }) => {
      const args = snapshotArgs(o);
      return args !== null && !opFinished(o) && (args.snapshot === x.id || args.before === x.id);
    });
    const read = [...s.disks.values()].some(({ value: d }) => needsSnapshot(d, x.id));
    if (inWork || read) return;
    this.removing.add(x.id);
    void (async () => {
      // A node that left took them along.
      if (x.node === null || x.node === node)
        for (const volume of x.disks) {
          const pool = s.pools.get(volume.pool)?.value;
          if (pool !== undefined) await this.env.volumes.removeSnapshot(volume, pool);
        }
      const key = kinds.vmSnapshot.key(x.id);
      await this.env.ledger.txn([{ key, modRevision: kept.modRevision }], [{ del: key }]);
      this.removeMs.delete(x.id);
    })()
      .catch((e: unknown) => {
        this.removeMs.set(x.id, clock.nowMs());
        this.env.log.warn(`removing snapshot "${x.name}": ${errorRecord(e).message}`, { snapshot: x.id });
      })
      .finally(() => {
        this.removing.delete(x.id);
        this.wake();
      });
  }

  private isMine(x: VmSnapshot, s: Snapshot): boolean {
    const { node } = this.env;
    if (x.node !== null && s.nodes.has(x.node)) return x.node === node;
    const pools = x.disks.flatMap((d) => s.pools.get(d.pool)?.value ?? []);
    const able = [...s.lives.keys()].filter(
      (n) =>
        s.nodes.has(n) && s.nodes.get(n)?.value.witness !== true && pools.every((p) => poolHasNode(p, n)),
    );
    return able.sort()[0] === node;
  }

  /** What was made of it goes at once; what cannot be removed now goes with its record. */
  private async failed(id: string, error: unknown, s: Snapshot): Promise<void> {
    const kept = await this.latest(id);
    if (kept === null || kept.value.state !== 'wanted') return;
    for (const volume of kept.value.disks) {
      const pool = s.pools.get(volume.pool)?.value;
      if (pool !== undefined) await this.env.volumes.removeSnapshot(volume, pool).catch(() => undefined);
    }
    await this.put(kept, { ...kept.value, state: 'failed', error: errorRecord(error) });
  }

  /** The VM, its owner and the disks as the ledger has them now; all else as it was. */
  private async fresh(vm: string, s: Snapshot): Promise<Snapshot> {
    const { ledger } = this.env;
    const one = <T>(k: Kept<T> | null): Map<string, Kept<T>> => new Map(k === null ? [] : [[vm, k]]);
    const { entries } = await ledger.list(kinds.disk.prefix);
    const disks = new Map<string, Kept<Disk>>();
    for (const e of entries) {
      const id = kinds.disk.idOf(e.key);
      // One that cannot be read is missing where it is wanted, which says so.
      if (id === null || s.unreadable.includes(e.key)) continue;
      disks.set(id, { value: readRecord(kinds.disk, e.key, e.value), modRevision: e.modRevision });
    }
    const [spec, own] = [await keptNow(ledger, kinds.vmSpec, vm), await keptNow(ledger, kinds.vmOwn, vm)];
    return { ...s, specs: one(spec), owns: one(own), disks };
  }

  private latest(id: string): Promise<Kept<VmSnapshot> | null> {
    return keptNow(this.env.ledger, kinds.vmSnapshot, id);
  }

  private async put(kept: Kept<VmSnapshot>, x: VmSnapshot): Promise<boolean> {
    const key = kinds.vmSnapshot.key(x.id);
    const value = writeRecord(kinds.vmSnapshot, x);
    return (await this.env.ledger.txn([{ key, modRevision: kept.modRevision }], [{ put: key, value }])).done;
  }

  private subject(op: Op, s: Snapshot): Subject {
    const { id, name } = op.subject;
    const spec = s.specs.get(id);
    const own = s.owns.get(id);
    if (spec === undefined || own === undefined)
      throw new FlotillaError('not-found', `VM "${name}" is gone`, { hint: 'See flotilla vm list.' });
    if (own.value.owner !== this.env.node)
      throw new FlotillaError('wrong-state', `VM "${name}" has moved to ${own.value.owner} meanwhile`, {
        hint: 'Ask again.',
      });
    return { id, spec, own, domain: this.domains.get(id) ?? null, snapshot: s };
  }
}

/** Two in one minute, as after a restart of the schedule: the second has a number. */
function uniqueName(name: string, mine: readonly VmSnapshot[]): string {
  let n = 1;
  const at = (): string => (n === 1 ? name : `${name}-${n}`);
  while (mine.some((x) => x.name === at())) n++;
  return at();
}

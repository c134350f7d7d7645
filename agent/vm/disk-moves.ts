import { decideDiskMove, withMoved } from '../../core/decide/disk-move.js';
import { deviceId, isReplicated, type Disk } from '../../core/domain/disk.js';
import { diskMoveArgs, type DiskMoveArgs } from '../../core/domain/disk-move.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { formatSpan } from '../../core/domain/units.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare } from '../ledger/ledger.js';
import { LibvirtError } from '../libvirt/hypervisor.js';
import type { OpBook } from '../op-book.js';
import type { ReplicaDesk } from '../replica/replica-desk.js';
import { keptNow, type Kept, type Snapshot } from '../snapshot.js';
import { diskInMachine, diskXml, isDevice } from './domain-xml.js';
import type { Observed } from './domains.js';
import type { Turns } from './turns.js';
import { pathOf } from './want.js';

/** A move that waits for something is looked at so often, ms. */
const lookMs = 1_000;
/** How far QEMU is, is asked so often, ms. */
const progressMs = 500;
/** A ledger that does not answer while a machine stands still for it is asked again after this, ms. */
const againMs = 250;

/** One move as the ledger has it. */
interface Move {
  readonly vm: string;
  readonly op: Kept<Op>;
  readonly args: DiskMoveArgs;
  readonly spec: Kept<VmSpec>;
  readonly own: Kept<VmOwn>;
  readonly from: Kept<Disk> | null;
  readonly to: Kept<Disk> | null;
}

/** What one agent does for a move now. */
interface Job {
  readonly abort: AbortController;
  /** A copy while nothing has the disk open: no machine may be started. */
  copies: boolean;
}

/**
 * Moves disks of this node's VMs to other volumes: by QEMU while the machine runs, by a plain copy while it is off. The new volume
 * is a disk of its own, made by the {@link DiskMaker}, that takes the old one's place in the VM by one transaction; what is left
 * over is a disk that is being deleted. @see core/decide/disk-move.ts
 */
export class DiskMoves {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly turns: Turns;
  private readonly replicas: Pick<ReplicaDesk, 'whileOpen'>;
  private readonly wake: () => void;
  private readonly jobs = new Map<string, Job>();
  private readonly lookedMs = new Map<string, number>();
  private stopped = false;
  private snapshot: Snapshot | null = null;

  constructor(
    env: AgentEnv,
    d: {
      readonly ops: OpBook;
      readonly turns: Turns;
      readonly replicas: Pick<ReplicaDesk, 'whileOpen'>;
      readonly wake: () => void;
    },
  ) {
    this.env = env;
    this.ops = d.ops;
    this.turns = d.turns;
    this.replicas = d.replicas;
    this.wake = d.wake;
  }

  /** What QEMU copies goes on, and is found again. */
  stop(): void {
    this.stopped = true;
    for (const j of this.jobs.values()) j.abort.abort();
  }

  /** Why a machine that stands still must not go on, in words: it has changed its disk, and the ledger does not know; null: it may. */
  stands(disks: readonly Disk[], domain: Observed | null, s: Snapshot): string | null {
    if (domain?.active !== true) return null;
    const used = new Set(domain.hardware.disks.map((d) => d.path));
    const there = disks.find((d) => d.instead !== undefined && used.has(this.path(d, s)));
    return there === undefined
      ? null
      : `its disk "${there.name}" has moved, which the ledger has to note first`;
  }

  /** Why a machine must not be started, in words: its disk is being copied; null: it may. */
  copied(vm: string): string | null {
    return this.jobs.get(vm)?.copies === true
      ? 'its disk is being copied to its new place: that ends first'
      : null;
  }

  /** Begins what is to be done, ends what must not go on. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot, domains: ReadonlyMap<string, Observed>): number | null {
    const { env } = this;
    this.snapshot = s;
    const now = env.clock.nowMs();
    const open = new Map<string, Move>();
    const ending = new Set<string>();
    for (const op of s.ops.values()) {
      if (op.value.kind === 'vm.delete' && !opFinished(op.value)) ending.add(op.value.subject.id);
      if (op.value.kind !== 'vm.move-disk' || opFinished(op.value)) continue;
      const m = this.moveOf(op, s);
      if (m?.own.value.owner === env.node) open.set(m.vm, m);
    }
    for (const [vm, job] of this.jobs) {
      const m = open.get(vm);
      const starts = m !== undefined && job.copies && m.spec.value.power !== 'stopped' && !isOut(m);
      const ends = m === undefined || m.op.value.cancelAsked || ending.has(vm);
      if (ends || starts) job.abort.abort();
    }
    this.tidy(s, open, domains);
    if (env.live.compare() === null) return null;
    for (const [vm, m] of open) {
      if (this.jobs.has(vm) || ending.has(vm) || now - (this.lookedMs.get(vm) ?? -Infinity) < lookMs)
        continue;
      this.lookedMs.set(vm, now);
      this.run(vm, (job) => this.one(m, s, domains.get(vm)?.active === true, job), m.op);
    }
    for (const vm of this.lookedMs.keys()) if (!open.has(vm) && !this.jobs.has(vm)) this.lookedMs.delete(vm);
    return open.size === 0 ? null : lookMs;
  }

  private moveOf(op: Kept<Op>, s: Snapshot): Move | null {
    const args = diskMoveArgs(op.value);
    const vm = op.value.subject.id;
    const spec = s.specs.get(vm);
    const own = s.owns.get(vm);
    if (args === null || spec === undefined || own === undefined) return null;
    const [from, to] = [s.disks.get(args.disk) ?? null, s.disks.get(args.to) ?? null];
    return { vm, op, args, spec, own, from, to };
  }

  private path(disk: Disk, s: Snapshot): string {
    return pathOf(disk, s, this.env.volumes) ?? '';
  }

  private run(vm: string, work: (job: Job) => Promise<void>, op: Kept<Op> | null): void {
    const job: Job = { abort: new AbortController(), copies: false };
    this.jobs.set(vm, job);
    void work(job)
      .catch((e: unknown) => (op === null ? this.say(vm, e) : this.failed(vm, op, job, e)))
      .catch((e: unknown) => this.say(vm, e))
      .finally(() => {
        this.jobs.delete(vm);
        this.wake();
      });
  }

  private say(vm: string, e: unknown): void {
    this.env.log.warn(`moving a disk of VM ${vm}: ${errorRecord(e).message}`, { vm });
  }

  /** What was cut off is begun again with the next look; all else ends the move. */
  private async failed(vm: string, op: Kept<Op>, job: Job, e: unknown): Promise<void> {
    this.say(vm, e);
    if (this.stopped || job.abort.signal.aborted || passes(e)) return;
    const now = await this.read(op.value.id);
    if (now === null) return;
    await this.undo(now, wordsOf(now, e));
  }

  /** Of moves whose operation has ended otherwise nothing stays. */
  private tidy(s: Snapshot, open: ReadonlyMap<string, Move>, domains: ReadonlyMap<string, Observed>): void {
    const { env } = this;
    for (const disk of s.disks.values()) {
      const { instead, vm, state } = disk.value;
      if (instead === undefined || state === 'deleting' || open.has(vm) || this.jobs.has(vm)) continue;
      if (s.owns.get(vm)?.value.owner !== env.node || env.live.compare() === null) continue;
      const unfinished = [...s.ops.values()].some(
        ({ value: o }) => !opFinished(o) && o.subject.id === vm && o.kind === 'vm.move-disk',
      );
      const active = domains.get(vm)?.active === true;
      if (!unfinished) this.run(vm, () => this.drop(disk, instead, active, s), null);
    }
  }

  /** The copy of a move that nobody wants any more. A machine that uses it already is left to it: it stands still, and says so. */
  private async drop(disk: Kept<Disk>, instead: string, active: boolean, s: Snapshot): Promise<void> {
    const old = s.disks.get(instead)?.value;
    if (old !== undefined && active && !(await this.leave(disk.value.vm, old, this.path(disk.value, s))))
      return;
    const key = kinds.disk.key(disk.value.id);
    await this.env.ledger.txn(
      [{ key, modRevision: disk.modRevision }, ...this.alive(s)],
      [{ put: key, value: writeRecord(kinds.disk, { ...disk.value, state: 'deleting' }) }],
    );
  }

  private alive(s: Snapshot): Compare[] {
    const mine = this.env.live.compare();
    if (mine === null || s.meta === null) throw cut('this node has no live lease');
    return [mine, { key: epochKey, value: String(s.meta.value.epoch) }];
  }

  private async one(m: Move, s: Snapshot, active: boolean, job: Job): Promise<void> {
    // The look may be of before an earlier job's end: then the new volume is the VM's disk, and nothing is copied to it any more.
    const op = await this.ops.latest(m.op.value.id);
    if (op === null || opFinished(op.value)) return;
    const toPath = m.to === null ? '' : this.path(m.to.value, s);
    const inMachine = active && m.from !== null ? await this.inMachine(m.vm, m.from.value) : null;
    const step = decideDiskMove({
      me: this.env.node,
      op: m.op.value,
      spec: m.spec.value,
      own: m.own.value,
      from: m.from?.value ?? null,
      to: m.to?.value ?? null,
      toPath,
      active,
      inMachine,
    });
    switch (step.do) {
      case 'wait':
        if (m.op.value.state !== 'running' || m.op.value.step !== step.why)
          await this.ops.change(m.op, { state: 'running', step: step.why.slice(0, 200) });
        return;
      case 'finish':
        return this.ops.finish(m.op, 'done', `is on ${m.args.where}`);
      case 'undo': {
        const why = step.why;
        const error =
          why === null
            ? null
            : new FlotillaError(
                'wrong-state',
                `A disk of VM "${m.spec.value.name}" stays where it is: ${why}`,
                {
                  hint: 'Nothing of it was lost. Mend that, and move it again.',
                },
              );
        return this.undo(m, error);
      }
      case 'swap':
        return this.swap(m, s, toPath, job);
      case 'mirror':
        return this.mirror(m, s, toPath, step.adopt, job);
      case 'copy':
        return this.copy(m, s, toPath, job);
    }
  }

  private async inMachine(vm: string, disk: Disk) {
    const xml = await this.env.hypervisor.xml(vm);
    return diskInMachine(xml, deviceId(disk));
  }

  /** QEMU copies the disk while the guest writes: each write goes to both from then on, so that it comes to an end. */
  private async mirror(m: Move, s: Snapshot, toPath: string, adopt: boolean, job: Job): Promise<void> {
    const { hypervisor: h, clock } = this.env;
    const { vm } = m;
    const { signal } = job.abort;
    const to = m.to?.value;
    const from = m.from?.value;
    const entry = m.spec.value.disks.find((d) => d.disk === from?.id);
    if (to === undefined || from === undefined || entry === undefined) return;
    const first = await this.inMachine(vm, from);
    if (first === null) return;
    let fault: unknown = null;
    if (!adopt) {
      await this.open(to, s);
      const bytes = await this.fit(vm, first.dev, to, s);
      const hardware = { id: deviceId(from), bus: entry.bus, path: toPath, format: to.format };
      const begun = h.blockCopy(vm, first.dev, diskXml(hardware, first.dev, bytes), {
        finish: 'leave',
        reuseExternal: true,
        transientJob: true,
        synchronousWrites: true,
        ...(m.args.limitBps === null ? {} : { bandwidthBytes: m.args.limitBps }),
      });
      begun.done.catch((e: unknown) => (fault = e ?? new Error('failed')));
    }
    const rate = new Rate();
    for (let seen = adopt; ;) {
      await clock.sleep(progressMs);
      if (signal.aborted) return;
      if (fault !== null) return this.broken(m, fault);
      const now = await this.inMachine(vm, from);
      if (now?.mirror?.path === toPath && now.mirror.ready) break;
      const info = await h.blockJobInfo(vm, first.dev);
      if (info !== null) {
        seen = true;
        this.progress(m, info.current, info.end, rate.left(info.current, info.end, clock.nowMs()));
      } else if (seen) return this.broken(m, null);
    }
    await this.swap(m, s, toPath, job);
  }

  /**
   * QEMU copies only between equals, and volumes come in pieces: of a device the machine gets as much as it saw before, until its
   * next start or until the disk grows; a file is made just as large.
   *
   * @returns bytes of the device that it sees; null: it is a file
   */
  private async fit(vm: string, dev: string, to: Disk, s: Snapshot): Promise<number | null> {
    const { capacityBytes } = await this.env.hypervisor.blockInfo(vm, dev);
    if (isDevice(this.path(to, s))) return capacityBytes;
    const pool = s.pools.get(to.pool)?.value;
    if (pool !== undefined) await this.env.volumes.fitDisk(to, pool, capacityBytes);
    return null;
  }

  private progress(m: Move, done: number, all: number, leftMs: number | null): void {
    const left = leftMs === null ? '' : `, ${formatSpan(leftMs)} left`;
    const share = all > 0 ? done / all : 0;
    this.ops.progress(m.op.value, share, `copies it to ${m.args.where}${left}`);
  }

  /** It ended of itself: with the machine, or for a fault. */
  private async broken(m: Move, cause: unknown): Promise<void> {
    const { state } = await this.env.hypervisor.state(m.vm);
    if (state === 'shut-off' || state === 'crashed' || passes(cause)) return;
    // It ended with a machine that is another one since.
    if ((await this.read(m.op.value.id))?.own.value.gen !== m.own.value.gen) return;
    throw new FlotillaError(
      'tool-failed',
      `Copying a disk of VM "${m.spec.value.name}" to ${m.args.where} broke off`,
      {
        hint: 'Is there room, and is its drive well? Nothing was lost: the VM goes on with the old one.',
        ...(cause === null ? {} : { cause }),
      },
    );
  }

  /**
   * Both are the same. The machine stands still, goes over to the new volume, and goes on once the ledger names that: whatever dies
   * in between, what the ledger names has all that the guest was told of.
   */
  private async swap(m: Move, s: Snapshot, toPath: string, job: Job): Promise<void> {
    const { hypervisor: h } = this.env;
    const { vm } = m;
    await this.inTurn(vm, job, async () => {
      const from = m.from?.value;
      const now = await this.read(m.op.value.id);
      const seen = from === undefined ? null : await this.inMachine(vm, from);
      if (now === null || seen === null || now.own.value.owner !== this.env.node) return;
      const moved = seen.path === toPath;
      if (!moved && (now.op.value.cancelAsked || now.own.value.state !== 'running' || !seen.mirror?.ready))
        return;
      const before = await h.state(vm);
      if (before.state !== 'running' && before.state !== 'paused') return;
      const bytes = isDevice(toPath) ? null : (await h.blockInfo(vm, seen.dev)).capacityBytes;
      const beganMs = this.env.clock.nowMs();
      if (before.state === 'running') await h.suspend(vm);
      try {
        if (!moved) await h.blockJobAbort(vm, seen.dev, { pivot: true });
      } catch (e) {
        // Where it has gone over all the same it stands still until the ledger knows.
        const after = from === undefined ? null : await this.inMachine(vm, from);
        if (after?.path !== toPath) {
          if (before.state === 'running') await h.resume(vm);
          throw e;
        }
      }
      const spec = await this.commit(m, s, null, bytes);
      if (spec === null) return;
      if (spec.power !== 'running' || (!moved && before.state !== 'running')) return;
      await h.resume(vm);
      const ms = Math.round(this.env.clock.nowMs() - beganMs);
      this.env.log.info(`VM "${spec.name}" stood still for ${ms} ms as it changed a disk`, { vm });
    });
  }

  /** A plain copy, while nothing has the disk open. */
  private async copy(m: Move, s: Snapshot, toPath: string, job: Job): Promise<void> {
    const { volumes } = this.env;
    const from = m.from?.value;
    const to = m.to?.value;
    if (from === undefined || to === undefined) return;
    job.copies = true;
    const { signal } = job.abort;
    const began = this.env.clock.nowMs();
    const work = async (): Promise<void> => {
      for (const d of [from, to]) await this.openFile(d, s);
      await volumes.copyDisk(
        { path: this.path(from, s), format: from.format },
        { path: toPath, format: to.format },
        {
          signal,
          progress: (share) => {
            const spent = this.env.clock.nowMs() - began;
            this.progress(m, share, 1, share > 0.02 ? (spent / share) * (1 - share) : null);
          },
        },
      );
    };
    const paired = [from, to].some(isReplicated);
    await (paired ? this.replicas.whileOpen(m.vm, signal, work) : work());
    if (signal.aborted) return;
    await this.inTurn(m.vm, job, async () => void (await this.commit(m, s, m.own.value)));
  }

  private async openFile(disk: Disk, s: Snapshot): Promise<void> {
    const pool = s.pools.get(disk.pool)?.value;
    if (pool !== undefined && !isReplicated(disk)) await this.env.volumes.openDisk(disk, pool);
  }

  /** For a machine that runs. */
  private async open(disk: Disk, s: Snapshot): Promise<void> {
    if (isReplicated(disk)) await this.env.replication?.promote(disk.vm);
    else await this.openFile(disk, s);
  }

  private async inTurn(vm: string, job: Job, act: () => Promise<void>): Promise<void> {
    if (await this.turns.wait(vm, this.env.clock, job.abort.signal))
      await act().finally(() => this.turns.end(vm));
  }

  /**
   * The one transaction after which the new volume is the VM's disk. Where the ledger does not say whether it was written it is
   * asked until it does.
   *
   * @param asStopped - the ownership in which it was copied: a VM that ran since has written to the old one; null: its machine
   *   uses the new one already
   * @param bytes - of the new one, where it was made as large as the old one; null: as it was asked for
   * @returns the spec as it is then; null: it is not to be, or not this node's to say
   */
  private async commit(
    m: Move,
    s: Snapshot,
    asStopped: VmOwn | null,
    bytes: number | null = null,
  ): Promise<VmSpec | null> {
    const { clock, ledger, node } = this.env;
    for (;;) {
      if (this.stopped) return null;
      const now = await this.read(m.op.value.id).catch(() => undefined);
      if (now === null) return null;
      if (now?.spec.value.disks.some((d) => d.disk === m.args.to) === true) return now.spec.value;
      if (now !== undefined) {
        const { from, to, own } = now;
        if (own.value.owner !== node || from === null || to === null) return null;
        const ran =
          asStopped !== null && (own.value.gen !== asStopped.gen || own.value.state !== asStopped.state);
        if (ran || opFinished(now.op.value)) return null;
        const size = bytes === null ? {} : { sizeBytes: bytes, madeBytes: bytes };
        const next = withMoved(now.spec.value, from.value, { ...to.value, ...size });
        const op: Op = {
          ...now.op.value,
          state: 'done',
          step: `is on ${m.args.where}`,
          progress: 1,
          updatedMs: clock.wallMs(),
        };
        try {
          const r = await ledger.txn(
            [
              { key: kinds.vmSpec.key(m.vm), modRevision: now.spec.modRevision },
              { key: kinds.vmOwn.key(m.vm), modRevision: own.modRevision },
              { key: kinds.disk.key(next.from.id), modRevision: from.modRevision },
              { key: kinds.disk.key(next.to.id), modRevision: to.modRevision },
              { key: kinds.op.key(op.id), modRevision: now.op.modRevision },
              ...this.alive(s),
            ],
            [
              { put: kinds.vmSpec.key(m.vm), value: writeRecord(kinds.vmSpec, next.spec) },
              { put: kinds.disk.key(next.from.id), value: writeRecord(kinds.disk, next.from) },
              { put: kinds.disk.key(next.to.id), value: writeRecord(kinds.disk, next.to) },
              { put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) },
            ],
          );
          if (r.done) {
            this.env.radio.say('op', op, op.id);
            announce(this.env, 'info', next.spec.name, `its disk "${next.to.name}" is on ${m.args.where}`);
            return next.spec;
          }
        } catch (e) {
          this.say(m.vm, e);
        }
      }
      await clock.sleep(againMs);
    }
  }

  /** The move as the ledger has it in this moment; null: its operation or its VM is gone. @throws FlotillaError */
  private async read(opId: string): Promise<Move | null> {
    const { ledger } = this.env;
    const op = await this.ops.latest(opId);
    const args = op === null ? null : diskMoveArgs(op.value);
    if (op === null || args === null) return null;
    const vm = op.value.subject.id;
    const [spec, own, from, to] = await Promise.all([
      keptNow(ledger, kinds.vmSpec, vm),
      keptNow(ledger, kinds.vmOwn, vm),
      keptNow(ledger, kinds.disk, args.disk),
      keptNow(ledger, kinds.disk, args.to),
    ]);
    return spec === null || own === null ? null : { vm, op, args, spec, own, from, to };
  }

  /** QEMU's copying to that volume ends. @returns false: the machine uses it already */
  private async leave(vm: string, from: Disk, toPath: string): Promise<boolean> {
    const seen = await this.inMachine(vm, from);
    if (seen?.path === toPath) return false;
    if (seen?.mirror?.path === toPath) await this.env.hypervisor.blockJobAbort(vm, seen.dev);
    return true;
  }

  /** The old volume stays, the new one goes. @param error - null: it was cancelled */
  private async undo(m: Move, error: unknown): Promise<void> {
    const { hypervisor: h, clock, ledger } = this.env;
    if (m.from !== null && m.to !== null) {
      const state = await h.state(m.vm).catch(() => null);
      const on = state !== null && ['running', 'paused'].includes(state.state);
      const path = this.snapshot === null ? '' : this.path(m.to.value, this.snapshot);
      if (on && path !== '' && !(await this.leave(m.vm, m.from.value, path))) return;
    }
    const record = error === null ? null : errorRecord(error);
    const op: Op = {
      ...m.op.value,
      state: record === null ? 'cancelled' : 'failed',
      step: 'it stays where it is',
      error: record,
      updatedMs: clock.wallMs(),
    };
    const to = m.to?.value.state === 'deleting' ? null : m.to;
    const r = await ledger.txn(
      [
        { key: kinds.op.key(op.id), modRevision: m.op.modRevision },
        { key: kinds.vmSpec.key(m.vm), modRevision: m.spec.modRevision },
        ...(to === null ? [] : [{ key: kinds.disk.key(to.value.id), modRevision: to.modRevision }]),
      ],
      [
        { put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) },
        ...(to === null
          ? []
          : [
              {
                put: kinds.disk.key(to.value.id),
                value: writeRecord(kinds.disk, { ...to.value, state: 'deleting' as const }),
              },
            ]),
      ],
    );
    if (!r.done) return;
    this.env.radio.say('op', op, op.id);
    this.env.log.info(`op ${op.kind} ${op.state}`, { op: op.id, subject: op.subject.name });
  }
}

const isOut = (m: Move): boolean => m.spec.value.disks.find((d) => d.disk === m.args.disk)?.detached === true;

/** What says "look again", not "it cannot be done". */
const passes = (e: unknown): boolean =>
  e instanceof LibvirtError
    ? ['disconnected', 'closed', 'overloaded', 'deadline'].includes(e.code)
    : e instanceof FlotillaError && ['stale-view', 'ledger-unavailable'].includes(e.code);

/** A failure in words of this product. */
const wordsOf = (m: Move, e: unknown): unknown =>
  e instanceof FlotillaError
    ? e
    : new FlotillaError('hypervisor-error', `A disk of VM "${m.spec.value.name}" stays where it is`, {
        hint: 'The cause is libvirt’s own text. Nothing was lost; mend that, and move it again.',
        cause: e,
      });

const cut = (why: string): FlotillaError =>
  new FlotillaError('ledger-unavailable', `A disk is not moved now: ${why}`, {
    hint: 'It goes on by itself.',
  });

/** How long it takes still, by how fast it went of late. */
class Rate {
  private last: { readonly done: number; readonly atMs: number } | null = null;
  private perMs = 0;

  /** @returns null: not known yet */
  left(done: number, all: number, nowMs: number): number | null {
    const { last } = this;
    this.last = { done, atMs: nowMs };
    if (last === null || nowMs <= last.atMs || done < last.done) return null;
    const now = (done - last.done) / (nowMs - last.atMs);
    this.perMs = this.perMs === 0 ? now : 0.8 * this.perMs + 0.2 * now;
    return this.perMs <= 0 ? null : (all - done) / this.perMs;
  }
}

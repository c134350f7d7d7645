import type { z } from 'zod';
import { tooSlow } from '../../core/decide/migrate.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { MigrateArgs, MigrateReady } from '../../core/domain/migration.js';
import type { NodeRecord } from '../../core/domain/node.js';
import type { Op } from '../../core/domain/op.js';
import { formatSize, formatSpan } from '../../core/domain/units.js';
import type { VmOwn } from '../../core/domain/vm.js';
import { ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare, LedgerEntry } from '../ledger/ledger.js';
import {
  LibvirtError,
  type Arrived,
  type Job,
  type JobProgress,
  type MigrateResult,
} from '../libvirt/hypervisor.js';
import type { OpBook } from '../op-book.js';
import { keptNow, type Kept } from '../snapshot.js';
import { incomingXml } from './domain-xml.js';
import type { ReplicaDesk } from '../replica/replica-desk.js';
import { rolesSwapped, type Ownership, type Subject } from './ownership.js';
import type { Turns } from './turns.js';

/** A migration that takes longer has lost its way: aborted, ms. */
const deadlineMs = 4 * 3_600_000;
/** A job that an agent before this one began is looked at so often, ms. */
const lookMs = 500;

/** A migration that this node is the source of. */
interface Travel {
  readonly op: Op;
  readonly args: MigrateArgs;
  readonly s: Subject;
  /** The ownership as last written or read, with what a swap compares. */
  own: Kept<VmOwn>;
  beganMs: number;
  /** When the guest stood still for good, monotonic ms; null: not seen. */
  stoodMs: number | null;
  /** Why it is to end; null: it goes on. */
  back: FlotillaError | null;
  /** Ends what runs now. */
  end: (() => void) | null;
  /** The copy is there, and this machine goes, unless it stays. */
  whole: boolean;
  /** The target's record: its removal has seen that it owns nothing. */
  target: Kept<NodeRecord> | undefined;
}

/**
 * The node a VM migrates from. It alone swaps own, and hands over only when libvirt has reported that the whole copy is
 * there, paused, while the machine here stands still; then one of the two is let go. An agent that finds a migration begun
 * by another one breaks it off.
 *
 * @see docs/models.md, migration
 */
export class MigrationSource {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly own: Ownership;
  private readonly turns: Turns;
  private readonly replicas: ReplicaDesk;
  private readonly travels = new Map<string, Travel>();

  constructor(env: AgentEnv, ops: OpBook, own: Ownership, turns: Turns, replicas: ReplicaDesk) {
    this.env = env;
    this.ops = ops;
    this.own = own;
    this.turns = turns;
    this.replicas = replicas;
  }

  /** Whether this agent is at it, and will itself write how it ended. */
  has(vmId: string): boolean {
    return this.travels.has(vmId);
  }

  /** Whether libvirt has said of some copy that it is whole, and its machine is still here. */
  ending(): boolean {
    return [...this.travels.values()].some((t) => t.whole);
  }

  /** Swaps own to `migrating` and lets the VM go. Never waits. */
  begin(k: Kept<Op>, args: MigrateArgs, ready: MigrateReady, s: Subject): void {
    this.travel(k.value, args, s, async (t) => {
      const unfit = await this.replicas.same(s.id, s.snapshot).then(
        () => null,
        (e: unknown) => e,
      );
      if (unfit !== null) return this.refuse(k, unfit);
      const target = s.snapshot.nodes.get(args.to);
      if (!takesVms(target)) return this.refuse(k, unwilling(s, args.to));
      const gen = s.own.value.gen + 1;
      const op: Op = { ...k.value, state: 'running', step: `begins: ${args.from} → ${args.to}`, progress: 0 };
      op.updatedMs = this.env.clock.wallMs();
      const value: VmOwn = {
        ...s.own.value,
        gen,
        state: 'migrating',
        op: op.id,
        migration: { to: args.to, op: op.id, gen, handedOver: false },
      };
      const modRevision = await this.own.swap(s, value, {
        compare: [
          { key: kinds.live.key(args.to), createRevision: BigInt(ready.live) },
          asRead(target),
          { key: kinds.op.key(op.id), modRevision: k.modRevision },
        ],
        writes: [{ put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) }],
      });
      t.own = { value, modRevision };
      try {
        // The run that is copied is known by this generation, here and there.
        await this.own.mark(s, gen);
        await this.go(t);
      } catch (e) {
        await this.settle(t, e);
      }
    });
  }

  /** Nothing has begun. */
  private async refuse(k: Kept<Op>, e: unknown): Promise<void> {
    if (!(e instanceof FlotillaError) || e.code !== 'wrong-state') throw e;
    await this.ops.fail(k, e);
  }

  /** One that is under way; where this agent did not begin it, it finds out how it stands. Never waits. */
  follow(k: Kept<Op>, args: MigrateArgs, s: Subject, back: FlotillaError | null): void {
    const t = this.travels.get(s.id);
    if (t === undefined) {
      this.travel(k.value, args, s, async (travel) => {
        travel.back = back;
        await this.settle(travel, null);
      });
      return;
    }
    if (back === null || t.back !== null) return;
    t.back = back;
    t.end?.();
  }

  private travel(op: Op, args: MigrateArgs, s: Subject, act: (t: Travel) => Promise<void>): void {
    if (this.travels.has(s.id) || !this.turns.begin(s.id)) return;
    const beganMs = this.env.clock.nowMs();
    const target = s.snapshot.nodes.get(args.to);
    const t: Travel = {
      op,
      args,
      s,
      own: s.own,
      beganMs,
      stoodMs: null,
      back: null,
      end: null,
      whole: false,
      target,
    };
    this.travels.set(s.id, t);
    void act(t)
      .catch((e: unknown) => {
        const r = errorRecord(e);
        // Looked at again by the next pass: ledger and libvirt say how it stands.
        if (r.code !== 'stale-view')
          this.env.log.warn(`migration of VM "${s.spec.value.name}": ${r.message}`, { causes: r.causes });
        return this.env.clock.sleep(lookMs);
      })
      .finally(() => {
        this.travels.delete(s.id);
        this.turns.end(s.id);
      });
  }

  /** Sends the machine. Resolves when it was handed over and this one has ended. */
  private async go(t: Travel): Promise<void> {
    const { env } = this;
    const { id, snapshot } = t.s;
    const { to, policy } = t.args;
    const address = snapshot.nodes.get(to)?.value.addresses[0];
    if (address === undefined)
      throw new FlotillaError('not-found', `There is no node ${to}`, { hint: 'Choose another one.' });
    const xml = await env.hypervisor.xml(id, { migratable: true, secure: true });
    await this.replicas.shareWith(id, snapshot, () => t.back === null);
    if (t.back !== null) throw t.back;
    const job = env.hypervisor.migrate(
      id,
      { uri: `libvirt of ${to}`, migrateUri: `tcp://${address}`, peer: env.peers.libvirt(address) },
      {
        mode: 'live',
        tls: true,
        leavePaused: true,
        persistDest: true,
        autoConverge: true,
        abortOnIoError: true,
        destXml: incomingXml(xml),
        deadlineMs,
        onArrived: () => this.decide(t),
        ...(policy.bandwidthMiBps === null ? {} : { bandwidthMiBps: policy.bandwidthMiBps }),
      },
    );
    t.end = (): void => void job.cancel().catch(() => undefined);
    const watching = new AbortController();
    void this.listen(t, watching.signal);
    try {
      void this.watch(t, job);
      if (snapshot.replicas.has(id)) void this.watchCopies(t, watching.signal);
      await job.done;
    } finally {
      t.end = null;
      watching.abort();
    }
  }

  /** When the guest stood still, as libvirt tells. */
  private async listen(t: Travel, signal: AbortSignal): Promise<void> {
    for await (const e of this.env.hypervisor.events(signal))
      if (e.type === 'lifecycle' && e.uuid === t.s.id && e.event === 'suspended')
        t.stoodMs ??= this.env.clock.nowMs();
  }

  /** Tells how far it is, and does what was said for one that does not come to an end. */
  private async watch(t: Travel, job: Job<MigrateResult>): Promise<void> {
    let slow = false;
    try {
      for await (const p of job.progress()) {
        this.ops.progress(t.op, p.fraction, progressText(t.args, p));
        if (slow || !tooSlow(p)) continue;
        slow = true;
        if (t.args.policy.onSlow === 'pause') await this.env.hypervisor.suspend(t.s.id);
        else {
          t.back = new FlotillaError(
            'wrong-state',
            `VM "${t.s.spec.value.name}" stays where it is: it writes its memory faster than it can be sent`,
            { hint: 'Migrate it while it does less, or allow a pause: --on-slow pause.' },
          );
          t.end?.();
        }
      }
    } catch {
      // The job itself tells how it ended.
    }
  }

  /** Copies that lose each other while the memory is sent: it would have to go on where not every write is. */
  private async watchCopies(t: Travel, signal: AbortSignal): Promise<void> {
    const { clock } = this.env;
    while (!signal.aborted && t.end !== null) {
      const why = await this.replicas.notSame(t.s.id, t.s.snapshot).catch(() => null);
      if (why !== null && t.end !== null) {
        t.back ??= new FlotillaError('wrong-state', `VM "${t.s.spec.value.name}" stays where it is: ${why}`, {
          hint: 'Look at the storage network. Ask again when its copies are in sync.',
        });
        return t.end();
      }
      await clock.sleep(lookMs);
    }
  }

  /**
   * It failed, or an agent before this one had begun it: when libvirt is done with it, the VM stays here. A machine that
   * was handed over and is still here is no longer this node's: the swap finds that out, and nothing is resumed.
   *
   * @param failure - what the job said; null: it was begun by an agent before this one
   */
  private async settle(t: Travel, failure: unknown): Promise<void> {
    const { env } = this;
    const { id } = t.s;
    // Without the agent that began it nobody would decide when the copy is whole.
    t.end = () => void env.hypervisor.abortJob(id).catch(() => undefined);
    for (;;) {
      const p = await ifThere(env.hypervisor.jobProgress(id));
      if (p === null) break;
      t.end();
      await env.clock.sleep(lookMs);
    }
    t.end = null;
    await this.stay(t);
    const state = await ifThere(env.hypervisor.state(id));
    if (state !== null && state.state !== 'shut-off') await this.own.mark(t.s, t.own.value.gen);
    const why = t.back ?? failure;
    const error =
      why instanceof FlotillaError
        ? why
        : new FlotillaError(
            'hypervisor-error',
            `VM "${t.s.spec.value.name}" did not migrate and stays where it is`,
            {
              hint: 'The cause is libvirt’s own text. Mend it and ask again.',
              cause: why ?? new Error('it was broken off, as the agent that had begun it ended'),
            },
          );
    const op = await this.ops.latest(t.op.id);
    if (op !== null) await this.ops.fail(op, error);
  }

  /** Swaps own back. What has arrived of the copy is unwanted from then on, and its node destroys it. */
  private async stay(t: Travel): Promise<void> {
    if (t.own.value.state !== 'migrating') return;
    const value: VmOwn = {
      ...t.own.value,
      gen: t.own.value.gen + 1,
      state: 'running',
      op: null,
      migration: null,
    };
    t.own = { value, modRevision: await this.own.swap({ ...t.s, own: t.own }, value) };
  }

  /**
   * The whole copy is there, and both stand still: who goes on is decided here, by own alone. An answer that did not come
   * is no answer: asked until it is known.
   */
  private async decide(t: Travel): Promise<Arrived> {
    t.end = null;
    t.whole = true;
    for (;;) {
      try {
        return await this.handOver(t);
      } catch (e) {
        if (!(e instanceof FlotillaError)) throw e;
        this.env.log.warn(
          `VM "${t.s.spec.value.name}" stands still at the end of its migration: ${e.message}`,
        );
      }
      await this.env.clock.sleep(lookMs);
      const settled = await this.alreadyDecided(t).catch(() => null);
      if (settled !== null) return settled;
    }
  }

  private async handOver(t: Travel): Promise<Arrived> {
    const { to, ready } = t.args;
    // One that is called stale changes own: then the swap would not be done either.
    if (t.own.value.copies.length > 0 && t.own.value.sync !== 'ok') return this.remain(t, unlike(t));
    const subject = { ...t.s, own: t.own };
    const hand = async (waitMs: number | null, live: bigint, target: Kept<NodeRecord>): Promise<void> => {
      await this.own.swap(subject, this.handed(t, waitMs), {
        compare: [{ key: kinds.live.key(to), createRevision: live }, asRead(target)],
      });
    };
    // Armed only as this lease's keeper has said.
    if (ready?.live !== undefined && takesVms(t.target)) {
      const live = BigInt(ready.live);
      const swapped = await hand(ready.waitMs, live, t.target).then(() => true, ifStale);
      if (swapped !== null) return 'go';
    }
    // Its lease may be another one, or its record was written anew meanwhile.
    const { ledger } = this.env;
    const [live, node] = await Promise.all([ledger.get(kinds.live.key(to)), ledger.get(kinds.node.key(to))]);
    t.target = node === null ? undefined : kept(kinds.node, node);
    // Its node is gone, and the copy with it or soon, or is being emptied: the guest goes on here as if nothing had been.
    if (live === null || t.target === undefined) return this.remain(t, lost(t));
    if (!takesVms(t.target)) return this.remain(t, unwilling(t.s, to));
    // It lost its lease and has another one: nobody may count on its keeper until that has armed the VM anew.
    const same = ready?.live !== undefined && BigInt(ready.live) === live.createRevision;
    await hand(same ? ready.waitMs : null, live.createRevision, t.target);
    return 'go';
  }

  private async remain(t: Travel, why: FlotillaError): Promise<Arrived> {
    t.back = why;
    await this.stay(t);
    return 'stay';
  }

  /** What own says of this migration, where a swap of this agent may have been done without its answer; null: nothing yet. */
  private async alreadyDecided(t: Travel): Promise<Arrived | null> {
    const now = await keptNow(this.env.ledger, kinds.vmOwn, t.s.id);
    if (now === null) return 'leave';
    if (now.modRevision === t.own.modRevision) return null;
    const own = now.value;
    const next = own.gen === t.own.value.gen + 1;
    if (next && own.migration?.op === t.op.id && own.migration.handedOver) return 'go';
    if (!next || own.owner !== this.env.node || own.state !== 'running') return 'leave';
    t.own = now;
    return 'stay';
  }

  private handed(t: Travel, waitMs: number | null): VmOwn {
    const { from, to } = t.args;
    const own = t.own.value;
    const m = own.migration;
    if (m === null || m === undefined) throw new Error('there is no migration to hand over');
    const nowMs = this.env.clock.nowMs();
    return {
      ...own,
      owner: to,
      ...(own.copies.length > 0
        ? rolesSwapped(own, to)
        : { standby: own.standby === to ? from : own.standby }),
      gen: own.gen + 1,
      state: 'running',
      op: null,
      fence: waitMs === null ? { armed: false, waitMs: 0 } : { armed: true, waitMs },
      migration: {
        ...m,
        handedOver: true,
        stood: {
          pauseMs: t.stoodMs === null ? null : Math.round(nowMs - t.stoodMs),
          totalMs: Math.round(nowMs - t.beganMs),
        },
      },
    };
  }
}

const kept = <S extends z.ZodType>(k: { schema: S }, e: LedgerEntry): Kept<z.output<S>> => ({
  value: readRecord(k, e.key, e.value),
  modRevision: e.modRevision,
});

const takesVms = (node: Kept<NodeRecord> | undefined): node is Kept<NodeRecord> =>
  node?.value.desired === 'active';

/** Should it be removed meanwhile, or emptied, the swap finds that out. */
const asRead = (node: Kept<NodeRecord>): Compare => ({
  key: kinds.node.key(node.value.id),
  modRevision: node.modRevision,
});

/** Null: one of the compares did not hold. */
function ifStale(e: unknown): null {
  if (e instanceof FlotillaError && e.code === 'stale-view') return null;
  throw e;
}

const lost = (t: Travel): FlotillaError =>
  new FlotillaError(
    'node-unreachable',
    `VM "${t.s.spec.value.name}": ${t.args.to} was lost at the end of its migration`,
    {
      hint: 'It goes on where it was. Ask again when that node is back.',
    },
  );

/** Whoever empties a node counts the VMs it owns, and not those on their way. */
const unwilling = (s: Subject, to: string): FlotillaError =>
  new FlotillaError('wrong-state', `VM "${s.spec.value.name}" stays: ${to} is in maintenance or leaves`, {
    hint: 'Choose another node, or ask again when that one is active.',
  });

const unlike = (t: Travel): FlotillaError =>
  new FlotillaError(
    'wrong-state',
    `VM "${t.s.spec.value.name}": the copy of its disks on ${t.args.to} lost sight of the one here while it migrated`,
    { hint: 'It goes on where it was. Ask again when its copies are in sync.' },
  );

/** Null: there is no such domain, or it does not run: nothing is under way with it. */
async function ifThere<T>(asked: Promise<T>): Promise<T | null> {
  try {
    return await asked;
  } catch (e) {
    if (e instanceof LibvirtError && (e.code === 'no-such-domain' || e.code === 'invalid-state')) return null;
    throw e;
  }
}

function progressText({ from, to }: MigrateArgs, p: JobProgress): string {
  const parts = [`${from} → ${to}`];
  if (p.remainingBytes !== undefined && p.totalBytes !== undefined && p.totalBytes > 0)
    parts.push(`${formatSize(p.remainingBytes)} of ${formatSize(p.totalBytes)} left`);
  if (p.memoryBps !== undefined && p.memoryBps > 0) parts.push(`${formatSize(p.memoryBps)}/s`);
  const etaMs = eta(p);
  if (etaMs !== null) parts.push(`${formatSpan(etaMs)} to go`);
  if ((p.memoryIteration ?? 0) > 2) parts.push(`round ${p.memoryIteration}`);
  return parts.join(', ');
}

/** As long as the rest takes at the present speed, ms; null: not known. */
function eta(p: JobProgress): number | null {
  const bps = p.memoryBps ?? 0;
  return p.remainingBytes === undefined || bps <= 0 ? null : (p.remainingBytes / bps) * 1000;
}

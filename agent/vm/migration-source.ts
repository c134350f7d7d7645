import { endedByMigration, tooSlow } from '../../core/decide/migrate.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { MigrateArgs, MigrateReady } from '../../core/domain/migration.js';
import type { Op } from '../../core/domain/op.js';
import { formatSize, formatSpan } from '../../core/domain/units.js';
import type { VmOwn } from '../../core/domain/vm.js';
import { ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare } from '../ledger/ledger.js';
import { LibvirtError, type Job, type JobProgress, type MigrateResult } from '../libvirt/hypervisor.js';
import type { OpBook } from '../op-book.js';
import type { Kept } from '../snapshot.js';
import { incomingXml, markUri, markXml, parseDomain } from './domain-xml.js';
import type { Ownership, Subject } from './ownership.js';
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
}

/**
 * The node a VM migrates from. It alone swaps own, and hands over only after its libvirt has reported success. An agent
 * that finds a migration begun looks how it stands: nothing is remembered but in ledger and libvirt.
 *
 * @see docs/models.md, migration
 */
export class MigrationSource {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly own: Ownership;
  private readonly turns: Turns;
  private readonly travels = new Map<string, Travel>();

  constructor(env: AgentEnv, ops: OpBook, own: Ownership, turns: Turns) {
    this.env = env;
    this.ops = ops;
    this.own = own;
    this.turns = turns;
  }

  /** Swaps own to `migrating` and lets the VM go. Never waits. */
  begin(k: Kept<Op>, args: MigrateArgs, ready: MigrateReady, s: Subject): void {
    this.travel(k.value, args, s, async (t) => {
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
          { key: kinds.op.key(op.id), modRevision: k.modRevision },
        ],
        writes: [{ put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) }],
      });
      t.own = { value, modRevision };
      let failure: unknown = null;
      try {
        // The run that is copied is known by this generation, here and there.
        await this.mark(s, gen);
        await this.go(t);
      } catch (e) {
        failure = e;
      }
      if (failure === null) await this.handOver(t);
      else await this.settle(t, failure);
    });
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
    const t: Travel = { op, args, s, own: s.own, beganMs, stoodMs: null, back: null, end: null };
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

  /** Sends the machine. Resolves when libvirt has reported that the whole copy is there, paused, and this one gone. */
  private async go(t: Travel): Promise<void> {
    const { env } = this;
    const { id, snapshot } = t.s;
    const { to, policy } = t.args;
    const address = snapshot.nodes.get(to)?.value.addresses[0];
    if (address === undefined)
      throw new FlotillaError('not-found', `There is no node ${to}`, { hint: 'Choose another one.' });
    const xml = await env.hypervisor.xml(id, { migratable: true, secure: true });
    if (t.back !== null) throw t.back;
    const job = env.hypervisor.migrate(
      id,
      { uri: `qemu+tls://${address}/system`, migrateUri: `tcp://${address}` },
      {
        mode: 'live',
        tls: true,
        leavePaused: true,
        persistDest: true,
        autoConverge: true,
        abortOnIoError: true,
        destXml: incomingXml(xml),
        deadlineMs,
        ...(policy.bandwidthMiBps === null ? {} : { bandwidthMiBps: policy.bandwidthMiBps }),
      },
    );
    const cancel = (): void => void job.cancel().catch(() => undefined);
    t.end = cancel;
    const watching = new AbortController();
    void this.listen(t, watching.signal);
    try {
      const watched = this.watch(t, job);
      const result = await job.done;
      await watched;
      this.noteStop(t, result);
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

  private noteStop(t: Travel, r: MigrateResult): void {
    if (t.stoodMs === null && r.downtimeMs !== undefined) t.stoodMs = this.env.clock.nowMs() - r.downtimeMs;
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

  /**
   * Nobody has told this agent that it succeeded: it waits until libvirt is done with it, and looks what came of it.
   *
   * @param failure - what the job said; null: it was begun by an agent before this one
   */
  private async settle(t: Travel, failure: unknown): Promise<void> {
    const { env } = this;
    const { id } = t.s;
    t.end = () => void env.hypervisor.abortJob(id).catch(() => undefined);
    if (t.back !== null) t.end();
    for (;;) {
      const p = await ifThere(env.hypervisor.jobProgress(id));
      if (p === null) break;
      this.ops.progress(t.op, p.fraction, progressText(t.args, p));
      await env.clock.sleep(lookMs);
    }
    t.end = null;
    const state = await ifThere(env.hypervisor.state(id));
    const xml = state === null ? null : await ifThere(env.hypervisor.xml(id));
    const mark = xml === null ? null : parseDomain(xml).mark;
    const active = state !== null && state.state !== 'shut-off';
    const seen =
      state === null ? null : { active, ...state, mark, agentConnected: false, diskIds: [] as readonly string[] };
    if (endedByMigration(t.own.value, seen)) return this.handOver(t);
    return this.stay(t, active, t.back ?? failure);
  }

  /** The VM stays here. What has arrived of the copy is unwanted from this swap on, and its node destroys it. */
  private async stay(t: Travel, active: boolean, why: unknown): Promise<void> {
    const gen = t.own.value.gen + 1;
    const value: VmOwn = { ...t.own.value, gen, state: 'running', op: null, migration: null };
    const modRevision = await this.own.swap({ ...t.s, own: t.own }, value);
    t.own = { value, modRevision };
    if (active) await this.mark(t.s, gen);
    const error =
      why instanceof FlotillaError
        ? why
        : new FlotillaError('hypervisor-error', `VM "${t.s.spec.value.name}" did not migrate and stays where it is`, {
            hint: 'The cause is libvirt’s own text. Mend it and ask again.',
            cause: why ?? new Error('it was broken off, and the agent that began it is gone'),
          });
    const op = await this.reread(t.op.id);
    if (op !== null) await this.ops.fail(op, error);
  }

  private async handOver(t: Travel): Promise<void> {
    const { to, ready } = t.args;
    const subject = { ...t.s, own: t.own };
    // Armed only as this lease's keeper has said.
    if (ready?.live !== undefined) {
      const live = BigInt(ready.live);
      const swapped = await this.own.swap(subject, this.handed(t, ready.waitMs), alive(to, live)).catch(ifStale);
      if (swapped !== null) return;
    }
    const live = await this.env.ledger.get(kinds.live.key(to));
    // A target that is gone, and its copy with it or soon: the VM is started afresh, here and at once.
    if (live === null) return this.stay(t, false, unreachable(t));
    // It lost its lease and has another one: nobody may count on its keeper until that has armed the VM anew.
    await this.own.swap(subject, this.handed(t, null), alive(to, live.createRevision));
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
      standby: own.standby === to ? from : own.standby,
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

  private async mark(s: Subject, gen: number): Promise<void> {
    const { mark, hardware } = s.domain ?? { mark: null, hardware: { boot: [] } };
    const { generation, startedMs } = mark ?? { generation: s.spec.value.generation, startedMs: 0 };
    await this.env.hypervisor.setMetadata(
      s.id,
      { uri: markUri, prefix: 'f' },
      markXml({ gen, generation, startedMs }, hardware.boot),
      { live: true, config: true },
    );
  }

  private async reread(id: string): Promise<Kept<Op> | null> {
    const e = await this.env.ledger.get(kinds.op.key(id));
    return e === null ? null : { value: readRecord(kinds.op, e.key, e.value), modRevision: e.modRevision };
  }
}

const alive = (node: string, createRevision: bigint): { compare: Compare[] } => ({
  compare: [{ key: kinds.live.key(node), createRevision }],
});

/** Null: one of the compares did not hold. */
function ifStale(e: unknown): null {
  if (e instanceof FlotillaError && e.code === 'stale-view') return null;
  throw e;
}

const unreachable = (t: Travel): FlotillaError =>
  new FlotillaError('node-unreachable', `VM "${t.s.spec.value.name}": ${t.args.to} was lost at the end of its migration`, {
    hint: 'It is started anew where it was.',
  });

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

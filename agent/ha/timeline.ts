import { failoverTimelineSchema, type FailoverPhase, type FailoverTimeline } from '../../core/domain/ha.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { OpBook } from '../op-book.js';
import type { Kept, Snapshot } from '../snapshot.js';
import type { Observed } from '../vm/domains.js';

/** After QEMU runs, the guest agent is waited for so long, ms: emulated guests need minutes. Without one it ends so. */
const guestWaitMs = 120_000;

/** The unfinished failover ops of a reading. */
export const failoverOps = (s: Snapshot): Kept<Op>[] =>
  [...s.ops.values()].filter((k) => k.value.kind === 'vm.failover' && !opFinished(k.value));

/** How far a failover got; null: its op is not of a form this agent knows. */
export const timelineOf = (op: Op): FailoverTimeline | null =>
  failoverTimelineSchema.safeParse(op.args).data ?? null;

/** Completes the timelines of failovers to this node, and ends their ops. */
export class Timelines {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly wake: () => void;
  /** Moments noted by this agent and not yet in the ledger: wall clock. */
  private readonly marks = new Map<string, Map<FailoverPhase, number>>();
  private readonly ranMs = new Map<string, number>();
  private readonly writing = new Set<string>();

  constructor(env: AgentEnv, ops: OpBook, wake: () => void) {
    this.env = env;
    this.ops = ops;
    this.wake = wake;
  }

  /** A start got so far. */
  mark(vmId: string, phase: FailoverPhase): void {
    const marks = this.marks.get(vmId) ?? new Map<FailoverPhase, number>();
    this.marks.set(vmId, marks.set(phase, this.env.clock.wallMs()));
  }

  look(s: Snapshot, domains: ReadonlyMap<string, Observed>, answered: (id: string) => boolean): void {
    const open = failoverOps(s);
    const vms = new Set(open.map((k) => k.value.subject.id));
    for (const id of this.marks.keys()) if (!vms.has(id)) this.marks.delete(id);
    for (const id of this.ranMs.keys()) if (!open.some((k) => k.value.id === id)) this.ranMs.delete(id);
    for (const k of open) if (!this.writing.has(k.value.id)) this.one(k, s, domains, answered);
  }

  private one(
    k: Kept<Op>,
    s: Snapshot,
    domains: ReadonlyMap<string, Observed>,
    answered: (id: string) => boolean,
  ): void {
    const { env, ops } = this;
    const { id: vm } = k.value.subject;
    const own = s.owns.get(vm)?.value;
    const spec = s.specs.get(vm)?.value;
    const timeline = timelineOf(k.value);
    const key = kinds.vmOwn.key(vm);
    if (own === undefined && spec === undefined && timeline?.to === env.node && !s.unreadable.includes(key))
      return this.write(k, () => ops.finish(k, 'cancelled', 'the VM was deleted meanwhile'));
    if (own?.owner !== env.node) return;
    // Nobody waits for its guest agent any more; the failover itself was over when the machine ran.
    const over = (why: string): void => {
      const [state, step] =
        timeline?.phasesMs.running === undefined
          ? (['cancelled', why] as const)
          : (['done', `ran; ${why}`] as const);
      this.write(k, () => ops.finish(k, state, step));
    };
    if (spec === undefined || timeline === null || timeline.to !== env.node)
      return over('another failover followed');
    if (own.state === 'stopped' && spec.power === 'stopped') return over('the VM was stopped meanwhile');
    const d = domains.get(vm);
    if (d?.active !== true || d.mark?.gen !== own.gen) return;
    // A machine whose disk is locked is there for a moment, too, but has not run.
    if (d.state === 'paused' && (spec.power !== 'paused' || d.reason === 'starting-up')) return;

    const at = (phase: FailoverPhase): number =>
      Math.max(0, Math.round((this.marks.get(vm)?.get(phase) ?? env.clock.wallMs()) - timeline.atMs));
    const { phasesMs } = timeline;
    if (phasesMs.running === undefined) {
      const disk = this.marks.get(vm)?.has('disk-ready') === true ? { 'disk-ready': at('disk-ready') } : {};
      const args = { ...timeline, phasesMs: { ...phasesMs, ...disk, running: at('running') } };
      // Its guest never stopped, and nothing of ours is asked in one in lockstep.
      if (timeline.fence === 'twin') return this.write(k, () => ops.finish(k, 'done', 'runs', { args }));
      return this.write(k, () => ops.change(k, { args, step: 'runs; its guest agent is waited for' }));
    }
    const now = env.clock.nowMs();
    const ranMs = this.ranMs.get(k.value.id) ?? now;
    this.ranMs.set(k.value.id, ranMs);
    if (answered(vm)) {
      const args = { ...timeline, phasesMs: { ...phasesMs, 'guest-answers': at('guest-answers') } };
      return this.write(k, () => ops.finish(k, 'done', 'the guest answers', { args }));
    }
    if (now - ranMs >= guestWaitMs)
      this.write(k, () => ops.finish(k, 'done', 'runs; no guest agent answered'));
  }

  private write(k: Kept<Op>, act: () => Promise<unknown>): void {
    const { id } = k.value;
    this.writing.add(id);
    void act()
      .catch(() => undefined) // the next pass tries again
      .finally(() => {
        this.writing.delete(id);
        this.wake();
      });
  }
}

import { decideDrain, type DrainAct, type DrainStep, type DrainSubject } from '../../core/decide/drain.js';
import { drainArgs, type DrainArgs } from '../../core/domain/drain.js';
import { errorRecord } from '../../core/domain/error.js';
import { migratePolicyDefault } from '../../core/domain/migration.js';
import { opFinished, queuedOp, type Op } from '../../core/domain/op.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { outlookOf } from './outlook.js';
import { rankOf } from './rank.js';

/** One operation is planned anew this often, ms: a plan looks at every node for each VM that is left. */
const lookMs = 1_000;
/** Where the node whose turn it is does nothing for so long, the next one by name does it, ms. */
const patienceMs = 10_000;
/** An agent that has just started hears the others one by one: so long it does not call a node silent that lives, ms. */
const hearMs = 20_000;

/**
 * Empties nodes and fills them again. Any agent can: what is to be done follows from the ledger, and each act is one
 * transaction with what is noted of it. One node does it, by rank, and the next one where nothing comes of that.
 */
export class DrainDesk {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  /** Since when each operation stands as it does, and when it was looked at last, monotonic ms. */
  private readonly seen = new Map<string, { rev: bigint; sinceMs: number; lookedMs: number }>();
  private readonly busy = new Set<string>();
  private startedMs: number | null = null;

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.wake = wake;
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    this.startedMs ??= this.env.clock.nowMs();
    const open = [...s.ops.values()].filter(
      ({ value: o }) => (o.kind === 'node.drain' || o.kind === 'node.return') && !opFinished(o),
    );
    for (const id of this.seen.keys()) if (!open.some((k) => k.value.id === id)) this.seen.delete(id);
    for (const k of open) this.one(k, s);
    return open.length === 0 ? null : lookMs;
  }

  private one(k: Kept<Op>, s: Snapshot): void {
    const { env } = this;
    const { id } = k.value;
    const nowMs = env.clock.nowMs();
    let at = this.seen.get(id);
    if (at?.rev !== k.modRevision)
      at = { rev: k.modRevision, sinceMs: nowMs, lookedMs: at?.lookedMs ?? -Infinity };
    this.seen.set(id, at);
    const args = drainArgs(k.value);
    if (nowMs - at.sinceMs < rankOf(s, env.node, args?.node) * patienceMs) return;
    if (nowMs - at.lookedMs < lookMs || this.busy.has(id) || env.live.compare() === null) return;
    at.lookedMs = nowMs;
    if (nowMs - (this.startedMs ?? nowMs) < hearMs && !this.hearsAll(s)) return;
    this.busy.add(id);
    void this.act(k, args, s)
      .catch((e: unknown) =>
        env.log.warn(`${k.value.kind} of ${k.value.subject.name}: ${errorRecord(e).message}`),
      )
      .finally(() => {
        this.busy.delete(id);
        this.wake();
      });
  }

  private hearsAll(s: Snapshot): boolean {
    const heard = new Set(
      this.env.radio.heard().flatMap((h) => (h.state !== null && h.beatAgeMs !== null ? h.node : [])),
    );
    return [...s.lives.keys()].every((n) => heard.has(n) || !s.nodes.has(n));
  }

  private async act(k: Kept<Op>, args: DrainArgs | null, s: Snapshot): Promise<void> {
    const { env } = this;
    const op = k.value;
    if (args === null) return this.write(k, s, { ...op, state: 'failed', step: 'it cannot be read' });
    const outlook = outlookOf(s, env.radio.heard(), op.kind === 'node.drain' ? { emptied: args.node } : {});
    const step = decideDrain({
      op,
      args,
      outlook,
      owners: [...s.owns].map(([vm, own]) => [vm, own.value.owner] as const),
      anOp: (id) => s.ops.get(id)?.value,
      vm: (id): DrainSubject | null => {
        const spec = s.specs.get(id)?.value;
        const own = s.owns.get(id)?.value;
        return spec === undefined || own === undefined ? null : { spec, own, phase: outlook.phase(id, own) };
      },
    });
    await this.commit(k, args, step, s);
  }

  private async commit(k: Kept<Op>, args: DrainArgs, step: DrainStep, s: Snapshot): Promise<void> {
    const vms = new Map(step.vms.map((x) => [x.vm, x]));
    const compare: Compare[] = [];
    const writes: Write[] = [];
    for (const a of step.acts) {
      const made = this.begin(a, k.value, s, compare, writes);
      const line = a.do === 'cancel' ? undefined : vms.get(a.vm);
      if (made !== null && line !== undefined) vms.set(line.vm, { ...line, op: made });
    }
    const { end } = step;
    const next: Op = {
      ...k.value,
      args: { ...k.value.args, vms: [...vms.values()] },
      state: end === null ? 'running' : end.state,
      step: step.step.slice(0, 200),
      progress: end?.state === 'done' ? 1 : step.progress,
      error: end?.state === 'failed' ? errorRecord(end.error) : null,
    };
    if (end?.state === 'done' && args.leave) {
      const node = s.nodes.get(args.node);
      if (node !== undefined) {
        compare.push({ key: kinds.node.key(args.node), modRevision: node.modRevision });
        const value = writeRecord(kinds.node, { ...node.value, desired: 'leaving' });
        writes.push({ put: kinds.node.key(args.node), value });
      }
    }
    if (writes.length === 0 && same(k.value, next)) return;
    await this.write(k, s, next, compare, writes);
    if (end !== null)
      announce(
        this.env,
        end.state === 'failed' ? 'warning' : 'info',
        args.node,
        next.error?.message ?? next.step,
      );
  }

  /** @returns the operation that the act makes; null: none */
  private begin(a: DrainAct, op: Op, s: Snapshot, compare: Compare[], writes: Write[]): string | null {
    if (a.do === 'cancel') {
      const o = s.ops.get(a.op);
      if (o === undefined) return null;
      compare.push({ key: kinds.op.key(a.op), modRevision: o.modRevision });
      writes.push({
        put: kinds.op.key(a.op),
        value: writeRecord(kinds.op, { ...o.value, cancelAsked: true }),
      });
      return null;
    }
    const spec = s.specs.get(a.vm);
    const own = s.owns.get(a.vm);
    if (spec === undefined || own === undefined) return null;
    compare.push(
      { key: kinds.vmSpec.key(a.vm), modRevision: spec.modRevision },
      { key: kinds.vmOwn.key(a.vm), modRevision: own.modRevision },
    );
    const power = a.do === 'stop' ? 'stopped' : a.do === 'start' ? 'running' : null;
    if (power !== null) {
      const generation = spec.value.generation + 1;
      const next: VmSpec = { ...spec.value, power, generation, powerGeneration: generation };
      writes.push({ put: kinds.vmSpec.key(a.vm), value: writeRecord(kinds.vmSpec, next) });
    }
    const { clock, random } = this.env;
    const made = queuedOp(
      {
        id: random.uuid(),
        kind: `vm.${a.do}`,
        subject: { kind: 'vm', id: a.vm, name: spec.value.name },
        node: null,
        askedBy: `${op.kind} of ${op.subject.name}`,
        args:
          a.do === 'migrate'
            ? { from: a.from, to: a.to, policy: migratePolicyDefault, for: op.id }
            : a.do === 'relocate'
              ? { from: a.from, to: a.to, for: op.id }
              : { for: op.id },
      },
      clock.wallMs(),
    );
    compare.push({ key: kinds.op.key(made.id), createRevision: 0n });
    writes.push({ put: kinds.op.key(made.id), value: writeRecord(kinds.op, made) });
    return made.id;
  }

  /** One transaction; where something it was decided on has changed, nothing is done, and the next look decides anew. */
  private async write(
    k: Kept<Op>,
    s: Snapshot,
    next: Op,
    compare: readonly Compare[] = [],
    writes: readonly Write[] = [],
  ): Promise<void> {
    const { env } = this;
    const mine = env.live.compare();
    if (mine === null || s.meta === null) return;
    const key = kinds.op.key(next.id);
    const value = { ...next, updatedMs: env.clock.wallMs() };
    const r = await env.ledger.txn(
      [
        { key, modRevision: k.modRevision },
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
        ...compare,
      ],
      [{ put: key, value: writeRecord(kinds.op, value) }, ...writes],
    );
    if (r.done) env.radio.say('op', value, next.id);
  }
}

const same = (a: Op, b: Op): boolean =>
  JSON.stringify({ ...a, updatedMs: 0 }) === JSON.stringify({ ...b, updatedMs: 0 });

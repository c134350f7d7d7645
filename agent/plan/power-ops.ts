import { decidePowerOp, type PowerOpStep } from '../../core/decide/power-op.js';
import { fencingDeviceName } from '../../core/domain/fencing.js';
import { presence, startsNeed, type NodeRecord } from '../../core/domain/node.js';
import { opAfter, queuedOp, type Op } from '../../core/domain/op.js';
import { powerArgs, type PowerArgs } from '../../core/domain/power.js';
import { epochKey, ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv, HeardNode } from '../env.js';
import { fenceDeadlineMs } from '../ha/fencing.js';
import { withPowerClaim } from '../ha/power-claim.js';
import type { Compare, Write } from '../ledger/ledger.js';
import { keptNow, type Kept, type Snapshot } from '../snapshot.js';
import { askCancel, OpRota, sameOp } from './op-rota.js';
import { outlookOf } from './outlook.js';

/** Puts nodes to sleep and wakes them: the operations, whoever asked for them. */
export class PowerOps {
  private readonly env: AgentEnv;
  private readonly rota: OpRota;
  private readonly stopping = new AbortController();

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.kind === 'node.sleep' || o.kind === 'node.wake',
      // A node does not power itself off.
      first: (o, s) =>
        [...s.lives.keys()]
          .filter((n) => n !== o.subject.id && s.nodes.get(n)?.value.witness !== true)
          .sort()[0] ?? null,
      act: (k, s) => this.act(k, s),
    });
  }

  stop(): void {
    this.stopping.abort();
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    return this.rota.look(s);
  }

  private async act(k: Kept<Op>, s: Snapshot): Promise<void> {
    const { env } = this;
    const args = powerArgs(k.value);
    if (args === null) {
      await this.rota.write(k, s, { ...k.value, state: 'failed', step: 'it cannot be read' });
      return;
    }
    if (args.node === env.node && k.value.kind === 'node.sleep') return;
    const heard = env.radio.heard();
    const at = heard.find((h) => h.node === args.node);
    const drain = s.ops.get(args.drain ?? '')?.value;
    const emptied = k.value.kind === 'node.sleep' && drain?.state === 'done';
    const step = decidePowerOp({
      op: k.value,
      args,
      node: s.nodes.get(args.node)?.value ?? null,
      live: s.lives.has(args.node),
      presence: presence(at?.beatAgeMs ?? null),
      unwell:
        at === undefined
          ? null
          : unwellOf(at, env.clock.wallMs() - (s.nodes.get(args.node)?.value.asleep?.sinceMs ?? 0)),
      drain,
      binds: emptied ? outlookOf(s, heard).binds(args.node) : [],
      nowMs: env.clock.wallMs(),
    });
    if (step.act !== 'off' && step.act !== 'on') return void (await this.commit(k, args, step, s));
    const mine = env.live.compare();
    if (mine === null || s.meta === null || env.fencer === undefined) return;
    const still: Compare[] = [
      mine,
      { key: epochKey, value: String(s.meta.value.epoch) },
      { key: kinds.op.key(k.value.id), modRevision: k.modRevision },
    ];
    await withPowerClaim(env, args.node, still, async (ours) => {
      if (await this.commit(k, args, step, s, ours))
        await this.order(step.act as 'off' | 'on', args.node, k, ours);
    });
  }

  /** Tells the BMC, and notes what that came to. */
  private async order(act: 'off' | 'on', node: string, k: Kept<Op>, ours: Compare): Promise<void> {
    const { env } = this;
    const { ledger, fencer } = env;
    if (fencer === undefined) return;
    const entry = await ledger.get(kinds.bmc.key(node));
    let patch: Partial<PowerArgs>;
    if (entry === null) patch = { text: 'it has no fencing device' };
    else {
      const device = readRecord(kinds.bmc, entry.key, entry.value);
      announce(env, 'info', node, `${fencingDeviceName(device)} is asked to power it ${act}`);
      const call = { signal: this.stopping.signal, deadlineMs: fenceDeadlineMs };
      const outcome = await (act === 'off' ? fencer.off(device, call) : fencer.on(device, call));
      if (this.stopping.signal.aborted) return;
      patch =
        outcome.kind === 'not-confirmed'
          ? { text: outcome.error.message.slice(0, 300) }
          : { text: '', confirmedMs: env.clock.wallMs() };
    }
    const now = await keptNow(ledger, kinds.op, k.value.id);
    if (now === null) return;
    const op = now.value;
    const key = kinds.op.key(op.id);
    const next: Op = { ...op, args: { ...op.args, ...patch }, updatedMs: env.clock.wallMs() };
    await ledger.txn(
      [ours, { key, modRevision: now.modRevision }],
      [{ put: key, value: writeRecord(kinds.op, next) }],
    );
  }

  private async commit(
    k: Kept<Op>,
    args: PowerArgs,
    step: PowerOpStep,
    s: Snapshot,
    ours?: Compare,
  ): Promise<boolean> {
    const { env } = this;
    const nowMs = env.clock.wallMs();
    const compare: Compare[] = ours === undefined ? [] : [ours];
    const writes: Write[] = [];
    const node = s.nodes.get(args.node);
    let patch: Partial<PowerArgs> = step.patch;
    const setNode = (value: NodeRecord): void => {
      if (node === undefined) return;
      const key = kinds.node.key(args.node);
      compare.push({ key, modRevision: node.modRevision });
      writes.push({ put: key, value: writeRecord(kinds.node, value) });
    };
    if (node !== undefined && step.act === 'drain') {
      const drain = queuedOp(
        {
          id: env.random.uuid(),
          kind: 'node.drain',
          subject: { kind: 'node', id: args.node, name: args.node },
          node: null,
          askedBy: `node.sleep of ${args.node}`,
          args: { node: args.node, restart: false, leave: false, vms: [] },
        },
        nowMs,
      );
      patch = { ...patch, drain: drain.id };
      compare.push({ key: kinds.op.key(drain.id), createRevision: 0n });
      writes.push({ put: kinds.op.key(drain.id), value: writeRecord(kinds.op, drain) });
      setNode({ ...node.value, desired: 'maintenance' });
    }
    if (step.act === 'cancel-drain') askCancel(s.ops.get(args.drain ?? ''), compare, writes);
    if (node !== undefined && step.act === 'off') {
      const state = env.radio.heard().find((h) => h.node === args.node)?.state;
      const had = node.value.asleep;
      setNode({
        ...node.value,
        asleep: {
          sinceMs: had?.sinceMs ?? nowMs,
          by: k.value.askedBy,
          cpus: state?.cpus ?? had?.cpus ?? 0,
          memoryBytes: state?.memoryBytes ?? had?.memoryBytes ?? 0,
        },
      });
    }
    if (node !== undefined && step.activate) {
      const { asleep: _, ...rest } = node.value;
      setNode({ ...rest, desired: rest.desired === 'leaving' ? 'leaving' : 'active' });
    }
    const { end } = step;
    const next = opAfter(k.value, patch, step);
    if (writes.length === 0 && sameOp(k.value, next)) return false;
    const done = await this.rota.write(k, s, next, compare, writes);
    if (done && end !== null)
      announce(env, end.state === 'failed' ? 'error' : 'info', args.node, next.error?.message ?? next.step);
    return done;
  }
}

/** What is wrong with what VMs need of it; null: it has said nothing for so long, ms. */
function unwellOf(h: HeardNode, withinMs: number): string[] | null {
  if (h.state === null || (h.stateAgeMs ?? Infinity) > withinMs) return null;
  const out = h.state.health
    .filter((x) => !x.ok && startsNeed.has(x.part))
    .map((x) => `${x.part}: ${x.text}`);
  return h.state.keeper === null ? [...out, 'its keeper does not answer'] : out;
}

import {
  notWhole,
  chooseSecond,
  copyPools,
  withSecond,
  type SecondNode,
} from '../../core/decide/second-node.js';
import { withDiscarded } from '../../core/decide/repair.js';
import { copyAddresses } from '../../core/decide/replica-edit.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { Health } from '../../core/domain/node.js';
import { opFinished, queuedOp, type Op } from '../../core/domain/op.js';
import {
  otherNode,
  repairArgs,
  standbyArgs,
  type Replica,
  type StandbyArgs,
} from '../../core/domain/replica.js';
import type { CopyWords, VmOwn, VmSpec } from '../../core/domain/vm.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Loads } from '../ha/load.js';
import type { Compare } from '../ledger/ledger.js';
import type { OpBook } from '../op-book.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { valuesOf } from '../vm/ownership.js';

/** A standby that is lost, or an operation under way, is looked at so often, ms. */
const lookMs = 2_000;

interface Subject {
  readonly vm: string;
  readonly spec: VmSpec;
  readonly own: Kept<VmOwn>;
  readonly replica: Kept<Replica>;
  readonly s: Snapshot;
}

/**
 * Gives the second copies of this node's VMs to another node: where somebody asks for it, and by itself where the standby has
 * been lost for longer than the policy says. One transaction; the pair follows the record, and the operation ends when both
 * copies are the same. @see core/decide/second-node.ts
 */
export class StandbyDesk {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly words: (vm: string, s: Snapshot) => readonly CopyWords[];
  private readonly loads: (s: Snapshot) => Loads;
  private readonly runs: (vm: string) => boolean;
  private readonly wake: () => void;
  private readonly busy = new Set<string>();
  private readonly lookedMs = new Map<string, number>();
  /** Since when the standby of a VM has had no live key, as this agent read it. */
  private readonly lost = new Map<string, { readonly node: string; readonly sinceMs: number }>();
  /** Lost for too long, and why nobody takes its place. */
  private readonly stuck = new Map<string, string>();

  constructor(
    env: AgentEnv,
    d: {
      readonly ops: OpBook;
      readonly words: StandbyDesk['words'];
      readonly loads: StandbyDesk['loads'];
      /** Its machine is here. */
      readonly runs: (vm: string) => boolean;
      readonly wake: () => void;
    },
  ) {
    this.env = env;
    this.ops = d.ops;
    this.words = d.words;
    this.loads = d.loads;
    this.runs = d.runs;
    this.wake = d.wake;
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    const { env } = this;
    if (env.replication === undefined || env.live.compare() === null) return null;
    let again: number | null = null;
    for (const map of [this.lost, this.stuck, this.lookedMs])
      for (const vm of map.keys()) if (s.owns.get(vm)?.value.owner !== env.node) map.delete(vm);
    const asked = new Map(
      [...s.ops.values()]
        .filter((k) => ['vm.standby', 'vm.repair'].includes(k.value.kind) && !opFinished(k.value))
        .map((k) => [k.value.subject.id, k]),
    );
    for (const [vm, replica] of s.replicas) {
      const own = s.owns.get(vm);
      const spec = s.specs.get(vm)?.value;
      if (own?.value.owner !== env.node || spec === undefined) continue;
      const op = asked.get(vm);
      const dueMs = this.dueMs(vm, replica.value, s);
      if (op === undefined && dueMs === null) continue;
      again = Math.min(again ?? Infinity, op === undefined ? Math.max(lookMs, dueMs ?? 0) : lookMs);
      const now = env.clock.nowMs();
      if ((op === undefined && (dueMs ?? 0) > 0) || this.busy.has(vm)) continue;
      if (now - (this.lookedMs.get(vm) ?? -Infinity) < lookMs) continue;
      this.lookedMs.set(vm, now);
      this.busy.add(vm);
      void this.one({ vm, spec, own, replica, s }, op)
        .catch((e: unknown) =>
          env.log.warn(`another standby for VM "${spec.name}": ${errorRecord(e).message}`, { vm }),
        )
        .finally(() => {
          this.busy.delete(vm);
          this.wake();
        });
    }
    return again;
  }

  health(): Health[] {
    return [...this.stuck.values()].slice(0, 4).map((text) => ({ part: 'replicas', ok: false, text }));
  }

  /** Until its standby counts as lost for good, ms; null: it is there, or nobody wants another one by itself. */
  private dueMs(vm: string, r: Replica, s: Snapshot): number | null {
    const peer = otherNode(r, this.env.node);
    const { replaceAfterMin } = s.policy.copies;
    const gone = !s.nodes.has(peer);
    if (s.lives.has(peer) || (replaceAfterMin === null && !gone)) {
      this.lost.delete(vm);
      this.stuck.delete(vm);
      return null;
    }
    const now = this.env.clock.nowMs();
    const known = this.lost.get(vm);
    const sinceMs = known?.node === peer ? known.sinceMs : now;
    this.lost.set(vm, { node: peer, sinceMs });
    // Removed from the cluster: nobody waits for it.
    return gone ? 0 : Math.max(0, sinceMs + (replaceAfterMin ?? 0) * 60_000 - now);
  }

  private async one(x: Subject, op: Kept<Op> | undefined): Promise<void> {
    if (op === undefined) return this.byItself(x);
    if (op.value.kind === 'vm.repair') return this.repair(x, op);
    const args = standbyArgs(op.value);
    const peer = otherNode(x.replica.value, this.env.node);
    if (args === null) return this.ops.fail(op, refused(x, 'the request cannot be read'));
    if (op.value.state === 'running' && args.to !== null) {
      if (peer !== args.to) return this.ops.fail(op, refused(x, `${peer} took that place meanwhile`));
      if (x.own.value.sync === 'ok')
        return this.ops.finish(op, 'done', `${peer} has a copy with every write`);
      if (op.value.cancelAsked)
        return this.ops.finish(op, 'cancelled', `${peer} has that place, and is copied to`);
      if (this.dueMs(x.vm, x.replica.value, x.s) === 0) return this.ops.fail(op, lostMeanwhile(x, peer));
      return this.progress(op.value, x);
    }
    if (op.value.cancelAsked) return this.ops.finish(op, 'cancelled', `${peer} stays`);
    if (x.own.value.sync === 'ok' && !args.unprotected)
      return this.ops.fail(
        op,
        refused(x, `the copy on ${peer} has every write, and until another one is whole there would be none`),
      );
    const choice = this.choose(x, args.to);
    if (!choice.ok) return this.ops.fail(op, refused(x, choice.why));
    await this.begin(x, { ...args, from: peer, to: choice.node }, op);
  }

  /** A person said whose copies are thrown away: the ledger says so, too, and the operation ends when they are the same. */
  private async repair(x: Subject, op: Kept<Op>): Promise<void> {
    const { env } = this;
    const { s, vm } = x;
    const args = repairArgs(op.value);
    if (args === null) return this.ops.fail(op, refused(x, 'the request cannot be read'));
    if (op.value.state === 'running') {
      if (x.own.value.sync === 'ok') return this.ops.finish(op, 'done', 'its copies are the same');
      if (op.value.cancelAsked) return this.ops.finish(op, 'cancelled', 'the copies meet when they can');
      return this.progress(op.value, x);
    }
    if (op.value.cancelAsked) return this.ops.finish(op, 'cancelled', 'nothing was thrown away');
    const peer = otherNode(x.replica.value, env.node);
    const [live, node] = [s.lives.get(peer), s.nodes.get(peer)];
    const pair = (await env.replication?.observe())?.pairs.get(vm) ?? null;
    const inUse = this.runs(vm) || pair?.role === 'Primary';
    const d = withDiscarded(x.own.value, env.node, args.discard, {
      pair,
      inUse,
      peerLive: live !== undefined,
    });
    if (!d.ok)
      return this.ops.fail(
        op,
        new FlotillaError('wrong-state', `No copy of VM "${x.spec.name}" is thrown away: ${d.why}`, {
          hint: 'See how its copies stand: flotilla vm repair, without more, says what to do.',
        }),
      );
    const mine = env.live.compare();
    if (mine === null || s.meta === null) return;
    const next: Op = {
      ...op.value,
      state: 'running',
      step: `what ${args.discard} has is thrown away`,
      updatedMs: env.clock.wallMs(),
    };
    const given: Compare[] =
      d.own.owner === env.node || live === undefined || node === undefined
        ? []
        : [
            { key: kinds.live.key(peer), createRevision: live.createRevision },
            { key: kinds.node.key(peer), modRevision: node.modRevision },
          ];
    const r = await env.ledger.txn(
      [
        { key: kinds.vmOwn.key(vm), modRevision: x.own.modRevision },
        { key: kinds.op.key(next.id), modRevision: op.modRevision },
        ...given,
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
      ],
      [
        { put: kinds.vmOwn.key(vm), value: writeRecord(kinds.vmOwn, d.own) },
        { put: kinds.op.key(next.id), value: writeRecord(kinds.op, next) },
      ],
    );
    if (!r.done) return;
    env.radio.say('op', next, next.id);
    announce(
      env,
      'warning',
      x.spec.name,
      `${op.value.askedBy} throws away what ${args.discard} has of its disks`,
    );
  }

  private async byItself(x: Subject): Promise<void> {
    const peer = otherNode(x.replica.value, this.env.node);
    const choice = this.choose(x, null);
    if (!choice.ok) {
      const text = `VM "${x.spec.name}" has lost its second copy with ${peer}, and no node can take its place: ${choice.why}`;
      this.stuck.set(x.vm, text.slice(0, 500));
      return;
    }
    this.stuck.delete(x.vm);
    await this.begin(x, { from: peer, to: choice.node, unprotected: false }, null);
  }

  private choose(x: Subject, asked: string | null) {
    const { s, spec } = x;
    const pools = copyPools(x.replica.value, valuesOf(s.pools));
    const base = { owner: this.env.node, memoryMiB: spec.memoryMiB, pools };
    const heard = new Map(this.env.radio.heard().map((h) => [h.node, h]));
    const nodes = this.loads(s)
      .nodesFor(x.vm, { ...base, standby: null, only: null }, heard)
      .map((n): SecondNode => ({
        ...n,
        rack: s.nodes.get(n.id)?.value.rack ?? null,
        noCopies: heard.get(n.id)?.state?.replication ?? null,
      }));
    const disks = x.spec.disks.flatMap((d) => s.disks.get(d.disk)?.value ?? []);
    const ownerRack = s.nodes.get(this.env.node)?.value.rack ?? null;
    const vm = { ...base, ha: spec.ha.enabled, ownerRack, replica: x.replica.value, disks };
    return chooseSecond(vm, nodes, asked);
  }

  /** The one transaction after which another node has the second copy, which is then made and filled. */
  private async begin(x: Subject, args: StandbyArgs & { to: string }, op: Kept<Op> | null): Promise<void> {
    const { env } = this;
    const { s, vm } = x;
    const mine = env.live.compare();
    const { to } = args;
    const [live, node, me] = [s.lives.get(to), s.nodes.get(to), s.nodes.get(env.node)];
    if (mine === null || live === undefined || node === undefined || me === undefined || s.meta === null)
      return;
    // Seen after own was read: a copy that fails from now on changes own before the swap, or is not given up by it.
    const pair = (await env.replication?.observe())?.pairs.get(vm) ?? null;
    const why = notWhole(x.own.value, env.node, pair);
    if (why !== null) {
      if (op !== null) await this.ops.fail(op, refused(x, why));
      return;
    }
    const [own, kept] = withSecond(x.own.value, x.replica.value, { node: to });
    const [here, there] = copyAddresses(me.value, node.value);
    const replica: Replica = {
      ...kept,
      nodes: [
        { node: env.node, address: here },
        { node: to, address: there },
      ],
    };
    const name = x.spec.name;
    const queued =
      op?.value ??
      queuedOp(
        {
          id: env.random.uuid(),
          kind: 'vm.standby',
          subject: { kind: 'vm', id: vm, name },
          node: null,
          askedBy: `node ${env.node}`,
          args: {},
        },
        env.clock.wallMs(),
      );
    const next: Op = {
      ...queued,
      args: { ...queued.args, ...args },
      state: 'running',
      step: `copies to ${to}`,
      progress: 0,
      updatedMs: env.clock.wallMs(),
    };
    const r = await env.ledger.txn(
      [
        { key: kinds.vmOwn.key(vm), modRevision: x.own.modRevision },
        { key: kinds.replica.key(vm), modRevision: x.replica.modRevision },
        { key: kinds.op.key(next.id), modRevision: op?.modRevision ?? 0n },
        { key: kinds.live.key(to), createRevision: live.createRevision },
        { key: kinds.node.key(to), modRevision: node.modRevision },
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
      ],
      [
        { put: kinds.vmOwn.key(vm), value: writeRecord(kinds.vmOwn, own) },
        { put: kinds.replica.key(vm), value: writeRecord(kinds.replica, replica) },
        { put: kinds.op.key(next.id), value: writeRecord(kinds.op, next) },
      ],
    );
    if (!r.done) return;
    env.radio.say('op', next, next.id);
    announce(env, 'warning', name, `its second copy is on ${to} from now on, in place of ${args.from}`);
  }

  private progress(op: Op, x: Subject): void {
    const words = this.words(x.vm, x.s);
    const shares = words.map((w) => (w.state === 'in-sync' ? 1 : (w.done ?? 0)));
    const share = shares.length === 0 ? 0 : shares.reduce((a, b) => a + b, 0) / shares.length;
    const worst = words.find((w) => w.state !== 'in-sync');
    this.ops.progress(op, share, worst === undefined ? 'nearly done' : worst.text);
  }
}

const lostMeanwhile = (x: Subject, peer: string): FlotillaError =>
  new FlotillaError('node-unreachable', `VM "${x.spec.name}": ${peer} was lost before it had a whole copy`, {
    hint: 'Another node takes its place by itself, where one can; else choose one: flotilla vm standby.',
  });

const refused = (x: Subject, why: string): FlotillaError =>
  new FlotillaError('wrong-state', `VM "${x.spec.name}" gets no other standby: ${why}`, {
    hint: 'See "flotilla vm show": how its copies stand. With --unprotected it goes on with one copy meanwhile.',
  });

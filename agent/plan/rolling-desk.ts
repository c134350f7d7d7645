import { presence } from '../../core/domain/node.js';
import { opAfter, queuedOp, type Op } from '../../core/domain/op.js';
import { rollingArgs, underWay, type RollingArgs, type RollingNode } from '../../core/domain/rolling.js';
import {
  decideRolling,
  wantsNext,
  type RollingAct,
  type RollingNext,
  type RollingSeen,
  type RollingStep,
} from '../../core/decide/rolling.js';
import { votersBar } from '../../core/decide/outlook.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { holdsOf, votersFault } from './holds.js';
import { askCancel, OpRota, sameOp } from './op-rota.js';
import { outlookOf } from './outlook.js';
import { breather, inSlices } from './slices.js';

/** Where nothing can go now it is planned anew so often, ms. */
const planAgainMs = 5_000;

/** Since when something stands as it does, monotonic ms. */
interface Since {
  readonly what: string;
  readonly ms: number;
}

/**
 * Restarts or updates nodes in turn. A node that is not being worked on does it, so that it need not be handed over amid
 * a turn; where that one goes, the next by name goes on from the ledger.
 */
export class RollingDesk {
  private readonly env: AgentEnv;
  private readonly rota: OpRota;
  private readonly since = new Map<string, Since>();
  private held: { readonly op: string; readonly ms: number; readonly next: RollingNext } | null = null;
  private stopped = false;

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.kind === 'cluster.rolling',
      first: (o) => bystander(rollingArgs(o)),
      act: (k, s) => this.act(k, rollingArgs(k.value), s),
    });
  }

  stop(): void {
    this.stopped = true;
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    return this.rota.look(s);
  }

  private async act(k: Kept<Op>, args: RollingArgs | null, s: Snapshot): Promise<void> {
    if (args === null) {
      await this.rota.write(k, s, { ...k.value, state: 'failed', step: 'it cannot be read' });
      return;
    }
    const { id } = k.value;
    const nowMs = this.env.clock.nowMs();
    const stands = (key: string, what: string): void => {
      if (this.since.get(key)?.what !== what) this.since.set(key, { what, ms: nowMs });
    };
    const standsMs = (key: string): number => nowMs - (this.since.get(key)?.ms ?? nowMs);
    const keys = new Set<string>();
    for (const n of underWay(args))
      for (const [key, what] of [
        [`${id} ${n.node} state`, `${n.state} ${n.op ?? ''}`],
        [`${id} ${n.node} text`, `${n.state} ${n.text}`],
      ] as const) {
        keys.add(key);
        stands(key, what);
      }
    const wants = wantsNext(k.value, args);
    if (wants) {
      keys.add(`${id} next`);
      stands(`${id} next`, '');
    }
    for (const key of this.since.keys()) if (key.startsWith(id) && !keys.has(key)) this.since.delete(key);
    const next = wants ? await this.next(k.value, args, s) : null;
    if (this.stopped) return;
    const step = decideRolling({
      op: k.value,
      args,
      anOp: (op) => s.ops.get(op)?.value,
      node: (n) => this.seen(n, s),
      next,
      stateMs: (n) => standsMs(n === null ? `${id} next` : `${id} ${n} state`),
      textMs: (n) => standsMs(`${id} ${n} text`),
    });
    await this.commit(k, args, step, s);
  }

  private seen(id: string, s: Snapshot): RollingSeen | null {
    const record = s.nodes.get(id)?.value;
    if (record === undefined) return null;
    const live = s.lives.get(id)?.value;
    const heard = this.env.radio.heard().find((h) => h.node === id);
    const state = heard !== undefined && presence(heard.beatAgeMs) === 'here' ? heard.state : null;
    const unwell = new Map((state?.health ?? []).flatMap((h) => (h.ok ? [] : [[h.part, h.text]])));
    if (state !== null && !record.witness) {
      if (state.keeper === null) unwell.set('keeper', 'it does not answer');
      else if (!state.keeper.armable) unwell.set('keeper', `it would not arm a VM: ${state.keeper.why}`);
    }
    return {
      desired: record.desired,
      witness: record.witness,
      live: live ?? null,
      agentBoot: state?.boot ?? null,
      unwell,
      unlike: unlike(id, s),
    };
  }

  /** Which nodes go next, by what is now; where none can it is not planned anew at once. */
  private async next(op: Op, args: RollingArgs, s: Snapshot): Promise<RollingNext> {
    const nowMs = this.env.clock.nowMs();
    if (this.held?.op === op.id && nowMs - this.held.ms < planAgainMs) return this.held.next;
    const next = await this.plan(op, args, s);
    this.held = 'held' in next ? { op: op.id, ms: nowMs, next } : null;
    return next;
  }

  private async plan(op: Op, args: RollingArgs, s: Snapshot): Promise<RollingNext> {
    const holds = holdsOf(s, this.env, (o) => o.id === op.id || o.args['for'] === op.id);
    if (holds.length > 0) return { held: holds.slice(0, 3).join('; ') };
    const waiting = args.nodes.flatMap((n) => (n.state === 'waiting' ? n.node : [])).sort();
    const record = (n: string) => s.nodes.get(n)?.value;
    const gone = waiting.filter((n) => (record(n)?.desired ?? 'leaving') === 'leaving');
    if (gone.length > 0) return { nodes: gone };
    const silent = waiting.find((n) => !s.lives.has(n));
    if (silent !== undefined)
      return { held: `${silent} ${record(silent)?.asleep === undefined ? 'is not alive' : 'sleeps'}` };
    // Nothing has to move away from these.
    const idle = waiting.filter((n) => record(n)?.witness === true || record(n)?.desired === 'maintenance');
    const [first] = idle;
    const nodes = first === undefined ? await this.group(args, new Set(waiting), s) : [first];
    if (typeof nodes === 'string') return { held: nodes };
    for (const n of nodes) {
      const vms = unlike(n, s);
      if (vms.length > 0)
        return { held: `the copies of ${vms.slice(0, 3).join(', ')}, one of them on ${n}, are not the same` };
    }
    const voters = [...s.nodes.values()].flatMap(({ value: n }) => (n.voter ? [n.id] : []));
    const voting = nodes.find((n) => voters.includes(n));
    if (voting === undefined) return { nodes };
    const bar = votersBar(voters.length) ?? (await votersFault(this.env, voting));
    return bar === null ? { nodes } : { held: `${voting}: ${bar}` };
  }

  /** @returns the nodes, or why there are none */
  private async group(
    args: RollingArgs,
    only: ReadonlySet<string>,
    s: Snapshot,
  ): Promise<readonly string[] | string> {
    const outlook = outlookOf(s, this.env.radio.heard());
    const steps = outlook.rolling(args.atOnce, { only, groupsMax: 1 });
    const plan = await inSlices(breather(this.env.clock), steps, () => this.stopped);
    const [group] = plan?.groups ?? [];
    if (group !== undefined) return group.nodes;
    const [blocked] = plan?.blocked ?? [];
    return blocked === undefined
      ? 'nobody knows yet what the nodes have room for'
      : `${blocked.node} cannot go: ${blocked.reason}`;
  }

  private async commit(k: Kept<Op>, args: RollingArgs, step: RollingStep, s: Snapshot): Promise<void> {
    const lines = new Map(step.nodes.map((n) => [n.node, n]));
    const compare: Compare[] = [];
    const writes: Write[] = [];
    for (const a of step.acts) {
      const made = this.begin(a, k.value, args, s, compare, writes);
      const line = a.do === 'cancel' ? undefined : lines.get(a.node);
      if (made !== null && line !== undefined) lines.set(line.node, { ...line, op: made });
    }
    const { end } = step;
    const next = opAfter(k.value, { nodes: [...lines.values()] }, step);
    if (writes.length === 0 && sameOp(k.value, next)) return;
    if (!(await this.rota.write(k, s, next, compare, writes))) return;
    for (const n of step.nodes)
      if (
        n.state === 'done' &&
        args.nodes.find((x) => x.node === n.node)?.state !== 'done' &&
        n.boot !== undefined
      )
        announce(this.env, 'info', n.node, `${args.work} is done, ${step.step.slice(0, 150)}`);
    if (end !== null)
      announce(
        this.env,
        end.state === 'failed' ? 'warning' : 'info',
        k.value.subject.name,
        `rolling ${args.work} ${end.state}: ${next.error?.message ?? next.step}`,
      );
  }

  /** @returns the operation that the act makes; null: none */
  private begin(
    a: RollingAct,
    op: Op,
    args: RollingArgs,
    s: Snapshot,
    compare: Compare[],
    writes: Write[],
  ): string | null {
    if (a.do === 'cancel') {
      askCancel(s.ops.get(a.op), compare, writes);
      return null;
    }
    const node = s.nodes.get(a.node);
    if (node === undefined) return null;
    compare.push({ key: kinds.node.key(a.node), modRevision: node.modRevision });
    if (a.do !== 'work') {
      const desired = a.do === 'drain' ? 'maintenance' : 'active';
      const value = writeRecord(kinds.node, { ...node.value, desired });
      writes.push({ put: kinds.node.key(a.node), value });
    }
    if (a.do === 'return' && a.vms.length === 0) return null;
    const { image } = args;
    const self: Op['subject'] = { kind: 'node', id: a.node, name: a.node };
    const made = queuedOp(
      {
        id: this.env.random.uuid(),
        askedBy: `rolling ${args.work}`,
        ...(a.do === 'work'
          ? {
              kind: image === null ? ('node.reboot' as const) : ('node.update' as const),
              subject: image === null ? self : { kind: 'image', id: image.id, name: image.name },
              node: a.node,
              args: { for: op.id },
            }
          : {
              kind: a.do === 'drain' ? ('node.drain' as const) : ('node.return' as const),
              subject: self,
              node: null,
              args: {
                node: a.node,
                restart: a.do === 'drain' && args.restart,
                leave: false,
                vms: a.do === 'drain' ? [] : a.vms,
                for: op.id,
              },
            }),
      },
      this.env.clock.wallMs(),
    );
    compare.push({ key: kinds.op.key(made.id), createRevision: 0n });
    writes.push({ put: kinds.op.key(made.id), value: writeRecord(kinds.op, made) });
    return made.id;
  }
}

/** A node that is done, or that waits: it stays here while another one is worked on. */
function bystander(args: RollingArgs | null): string | null {
  const at = (state: RollingNode['state']): string | undefined =>
    args?.nodes.flatMap((n) => (n.state === state ? n.node : [])).sort()[0];
  return at('done') ?? at('waiting') ?? null;
}

/** Names of VMs whose copies differ, one of them on the node. */
function unlike(node: string, s: Snapshot): string[] {
  return [...s.owns].flatMap(([vm, { value: own }]) =>
    own.copies.length > 1 && own.sync !== 'ok' && own.copies.some((c) => c.node === node)
      ? (s.specs.get(vm)?.value.name ?? vm)
      : [],
  );
}

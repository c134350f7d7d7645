import { restartedWith } from '../../core/decide/vapp.js';
import { errorRecord } from '../../core/domain/error.js';
import { opFinished, queuedOp, type Op } from '../../core/domain/op.js';
import { vappArgs, type Vapp, type VappArgs } from '../../core/domain/vapp.js';
import { epochKey, ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import { timelineOf } from '../ha/timeline.js';
import { rankOf } from '../plan/rank.js';
import type { Kept, Snapshot } from '../snapshot.js';

/** One that is older says nothing of now: the vApp may have been given its wish since, ms. */
const failoverAgeMs = 10 * 60_000;
/** Others of it that are to come back, too, are waited for so long, ms: one restart for all of them. */
const gatherMs = 2 * 60_000;
/** Where the node whose turn it is does nothing for so long, the next one by name does it, ms. */
const patienceMs = 10_000;

/** Begins the restart of those that go with a member which a failover brought back. */
export class RestartDesk {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  private readonly busy = new Set<string>();

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.wake = wake;
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    const due = new Map<string, Op[]>();
    const open = new Set<string>();
    const coming = new Set<string>();
    for (const { value: o } of s.ops.values()) {
      if (o.subject.kind === 'vapp' && !opFinished(o)) open.add(o.subject.id);
      // What went on in lockstep did not begin anew: nothing has to be restarted with it.
      if (o.kind !== 'vm.failover' || timelineOf(o)?.fence === 'twin') continue;
      const id = s.specs.get(o.subject.id)?.value.vapp?.id;
      if (id === undefined || (s.vapps.get(id)?.value.failover ?? 'members') === 'members') continue;
      if (this.brought(o)) due.set(id, [...(due.get(id) ?? []), o]);
      else if (!opFinished(o)) coming.add(id);
    }
    let again: number | null = null;
    for (const [id, all] of due) {
      const done = answered(s, id);
      const failovers = all.filter((o) => !done.has(o.id));
      const vapp = s.vapps.get(id);
      if (vapp === undefined || failovers.length === 0) continue;
      again = 1_000;
      const sinceMs = Math.min(...failovers.map((o) => o.updatedMs));
      const waitedMs = this.env.clock.wallMs() - sinceMs;
      if (open.has(id) || this.busy.has(id) || waitedMs < rankOf(s, this.env.node) * patienceMs) continue;
      if (waitedMs < gatherMs && (coming.has(id) || toCome(vapp.value, s))) continue;
      this.busy.add(id);
      void this.begin(vapp, failovers, s)
        .catch((e: unknown) =>
          this.env.log.warn(`vapp.restart of ${vapp.value.name}: ${errorRecord(e).message}`),
        )
        .finally(() => {
          this.busy.delete(id);
          this.wake();
        });
    }
    return again;
  }

  /** Whether its VM runs again, not long since. */
  private brought(o: Op): boolean {
    const runs = o.state === 'done' || timelineOf(o)?.phasesMs.running !== undefined;
    return runs && this.env.clock.wallMs() - o.updatedMs < failoverAgeMs;
  }

  private async begin(k: Kept<Vapp>, failovers: readonly Op[], s: Snapshot): Promise<void> {
    const { env } = this;
    const vapp = k.value;
    const failed = new Set(
      vapp.members.filter((m) => failovers.some((o) => o.subject.id === m.vm)).map((m) => m.name),
    );
    const members = restartedWith(vapp, failed, (m) => {
      const owner = s.owns.get(m.vm)?.value.owner;
      return s.specs.get(m.vm)?.value.power === 'running' && owner !== undefined && s.lives.has(owner);
    });
    if (members.length === 0) return;
    const args: Partial<VappArgs> = {
      phase: 'stop',
      start: true,
      members,
      failovers: failovers.map((o) => o.id).slice(-64),
    };
    const op = queuedOp(
      {
        id: env.random.uuid(),
        kind: 'vapp.restart',
        subject: { kind: 'vapp', id: vapp.id, name: vapp.name },
        node: null,
        askedBy: `failover of ${[...failed].join(', ')}`.slice(0, 100),
        args,
      },
      env.clock.wallMs(),
    );
    const mine = env.live.compare();
    if (mine === null || s.meta === null) return;
    const key = kinds.vapp.key(vapp.id);
    await env.ledger.txn(
      [
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
        { key, modRevision: k.modRevision },
        { key: kinds.op.key(op.id), modRevision: 0n },
      ],
      [
        // Written anew, so that of two who begin it at once one is late.
        { put: key, value: writeRecord(kinds.vapp, vapp) },
        { put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) },
      ],
    );
  }
}

/** Failovers that a restart of the vApp, finished too, was for. */
function answered(s: Snapshot, vapp: string): ReadonlySet<string> {
  const out = new Set<string>();
  for (const { value: o } of s.ops.values())
    if (o.kind === 'vapp.restart' && o.subject.id === vapp)
      for (const id of vappArgs(o)?.failovers ?? []) out.add(id);
  return out;
}

/** Whether a member's node is gone, and a failover is to bring it back. */
const toCome = (v: Vapp, s: Snapshot): boolean =>
  v.members.some((m) => {
    const spec = s.specs.get(m.vm)?.value;
    const own = s.owns.get(m.vm)?.value;
    return (
      spec?.ha.enabled === true && spec.power === 'running' && own !== undefined && !s.lives.has(own.owner)
    );
  });

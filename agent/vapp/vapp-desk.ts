import {
  decideVapp,
  failVapp,
  type VappAct,
  type VappAsk,
  type VappDecision,
  type VappOpView,
} from '../../core/decide/vapp.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { queuedOp, type Op } from '../../core/domain/op.js';
import { vappArgs, type Vapp } from '../../core/domain/vapp.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, unique, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import { OpRota, sameOp } from '../plan/op-rota.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { askSnapshot } from './member-snapshots.js';
import { memberView } from './member-view.js';
import { VmBirths } from './vm-births.js';

/** What waits is said anew this often, ms: it also tells other nodes that somebody is at it. */
const sayMs = 5_000;
/** What passes by itself: it is tried again, and fails nothing. */
const passing: ReadonlySet<string> = new Set([
  'ledger-unavailable',
  'stale-view',
  'timeout',
  'edit-conflict',
  'internal',
]);

const powers = {
  start: 'running',
  stop: 'stopped',
  'force-stop': 'stopped',
  pause: 'paused',
  resume: 'running',
} as const;

/** What this node knows of one operation beside the ledger; another one begins it anew. */
interface Watch {
  stage: string;
  sinceMs: number;
  thereMs: number | null;
  readonly answers: Map<string, boolean>;
  readonly asking: Set<string>;
}

/** Makes vApps, starts, stops and deletes them. Any agent can. */
export class VappDesk {
  private readonly env: AgentEnv;
  private readonly rota: OpRota;
  private readonly births: VmBirths;
  private readonly watches = new Map<string, Watch>();

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.births = new VmBirths(env);
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.subject.kind === 'vapp',
      first: () => null,
      act: (k, s) => this.act(k, s),
    });
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    for (const id of this.watches.keys()) if (!s.ops.has(id)) this.watches.delete(id);
    return this.rota.look(s);
  }

  private async act(k: Kept<Op>, s: Snapshot): Promise<void> {
    const op = k.value;
    const args = vappArgs(op);
    const vapp = s.vapps.get(op.subject.id);
    if (args === null || vapp === undefined) {
      // Gone: a deletion that came first. Unreadable: nothing is done on a guess.
      const gone = args !== null && !s.unreadable.some((key) => kinds.vapp.idOf(key) === op.subject.id);
      const error = errorRecord(
        new FlotillaError('not-found', `vApp "${op.subject.name}" is gone, or cannot be read`, {
          hint: 'See flotilla vapp list.',
        }),
      );
      const done = gone && (args.phase === 'delete' || args.phase === 'undo') && args.why === null;
      await this.rota.write(
        k,
        s,
        done ? { ...op, state: 'done', progress: 1 } : { ...op, state: 'failed', error },
      );
      return;
    }
    const watch = this.watchOf(op, `${args.phase} ${args.stage}`);
    const nowMs = this.env.clock.nowMs();
    const view: VappOpView = {
      ...memberView(this.env, op, s),
      op,
      args,
      vapp: vapp.value,
      answered: (member) => watch.answers.get(member) ?? null,
      stageMs: nowMs - watch.sinceMs,
      thereMs: watch.thereMs === null ? null : nowMs - watch.thereMs,
    };
    const d = decideVapp(view);
    watch.thereMs = d.there ? (watch.thereMs ?? nowMs) : null;
    for (const a of d.asks) this.ask(a, watch, s);
    await this.commit(k, vapp, view, d, s);
  }

  private watchOf(op: Op, stage: string): Watch {
    let w = this.watches.get(op.id);
    if (w?.stage !== stage) {
      w = { stage, sinceMs: this.env.clock.nowMs(), thereMs: null, answers: new Map(), asking: new Set() };
      this.watches.set(op.id, w);
    }
    return w;
  }

  /** Asks a member's service; what comes of it counts at the next look. */
  private ask(a: VappAsk, watch: Watch, s: Snapshot): void {
    if (watch.asking.has(a.member)) return;
    const nic = s.specs.get(a.vm)?.value.nics.find((n) => n.address !== null);
    const network = nic === undefined ? undefined : s.networks.get(nic.network)?.value;
    if (nic?.address === undefined || nic.address === null || network === undefined) return;
    watch.asking.add(a.member);
    const port = a.start.port ?? 80;
    const path = a.start.wait === 'http' ? (a.start.path ?? '/') : null;
    void this.env.bridges
      .answers(network, nic.address, { port, path })
      .catch(() => false)
      .then((yes) => watch.answers.set(a.member, yes))
      .finally(() => watch.asking.delete(a.member));
  }

  private async commit(
    k: Kept<Op>,
    vapp: Kept<Vapp>,
    view: VappOpView,
    d: VappDecision,
    s: Snapshot,
  ): Promise<void> {
    const compare: Compare[] = [{ key: kinds.vapp.key(vapp.value.id), modRevision: vapp.modRevision }];
    const writes: Write[] = [];
    const make = d.acts.find((a) => a.do === 'make');
    let taken: readonly string[] = [];
    try {
      if (make !== undefined) {
        const birth = await this.births.plan(make.member, vapp.value, k.value, s);
        compare.push(...birth.compare);
        writes.push(...birth.writes);
        taken = birth.taken;
      } else for (const a of d.acts) this.begin(a, k.value, s, compare, writes);
    } catch (e) {
      await this.refused(k, vapp, view, e, s);
      return;
    }
    if (d.end !== null) await this.conclude(vapp, d, s, compare, writes);
    const next = this.next(k.value, d);
    if (writes.length === 0 && sameOp(k.value, next)) return;
    const done = await this.rota.write(k, s, next, compare, writes);
    if (!done && make !== undefined) await this.takenBy(k, vapp, view, taken, make.member.vm, s);
    if (done && d.end !== null)
      announce(
        this.env,
        d.end.state === 'failed' ? 'warning' : 'info',
        vapp.value.name,
        next.error?.message ?? next.step,
      );
  }

  private next(op: Op, d: VappDecision): Op {
    const { end } = d;
    // A wait is said with its length, so that others hear that it is looked at.
    const waited = this.env.clock.wallMs() - op.updatedMs >= sayMs && end === null;
    return {
      ...op,
      args: { ...op.args, ...d.args, ...(waited ? { lookedMs: this.env.clock.wallMs() } : {}) },
      state: end === null ? 'running' : end.state,
      step: d.step.slice(0, 200),
      progress: end?.state === 'done' ? 1 : d.progress,
      error: end?.state === 'failed' ? end.error : null,
    };
  }

  private async refused(
    k: Kept<Op>,
    vapp: Kept<Vapp>,
    view: VappOpView,
    e: unknown,
    s: Snapshot,
  ): Promise<void> {
    if (!(e instanceof FlotillaError) || passing.has(e.code)) throw e;
    const d = failVapp(view, errorRecord(e));
    const compare: Compare[] = [];
    const writes: Write[] = [];
    if (d.end !== null) await this.conclude(vapp, d, s, compare, writes);
    await this.rota.write(k, s, this.next(k.value, d), compare, writes);
  }

  /** Somebody else has a name or an address that it needs: that does not pass. */
  private async takenBy(
    k: Kept<Op>,
    vapp: Kept<Vapp>,
    view: VappOpView,
    keys: readonly string[],
    vm: string,
    s: Snapshot,
  ): Promise<void> {
    for (const key of keys.filter((x) => x.includes('/name/') || x.includes('/mac/'))) {
      const e = await this.env.ledger.get(key);
      if (e === null || e.value === vm) continue;
      const what = key.slice(key.lastIndexOf('/') + 1);
      const error = new FlotillaError('name-taken', `"${what}" is taken by another VM`, {
        hint: 'Give the member another name, or the vApp.',
      });
      await this.refused(k, vapp, view, error, s);
      return;
    }
  }

  private begin(a: VappAct, op: Op, s: Snapshot, compare: Compare[], writes: Write[]): void {
    if (a.do === 'make') return;
    if (a.do === 'snapshot') {
      askSnapshot(this.env, a.from, op, s, compare, writes);
      return;
    }
    const spec = s.specs.get(a.vm);
    if (spec === undefined) return;
    const key = kinds.vmSpec.key(a.vm);
    compare.push({ key, modRevision: spec.modRevision });
    const power = a.do === 'delete' ? null : powers[a.do];
    if (power !== null && power !== spec.value.power) {
      const generation = spec.value.generation + 1;
      // As the API writes each.
      const begins = a.do === 'pause' || a.do === 'resume' ? {} : { powerGeneration: generation };
      const next: VmSpec = { ...spec.value, power, generation, ...begins };
      writes.push({ put: key, value: writeRecord(kinds.vmSpec, next) });
    }
    const made = queuedOp(
      {
        id: this.env.random.uuid(),
        kind: `vm.${a.do}`,
        subject: { kind: 'vm', id: a.vm, name: spec.value.name },
        node: null,
        askedBy: `${op.kind} of ${op.subject.name}`,
        args: { for: op.id, ...(a.do === 'delete' ? { force: true } : {}) },
      },
      this.env.clock.wallMs(),
    );
    compare.push({ key: kinds.op.key(made.id), modRevision: 0n });
    writes.push({ put: kinds.op.key(made.id), value: writeRecord(kinds.op, made) });
  }

  /** The end: what was made needs no recipe any more, and what is gone leaves nothing. */
  private async conclude(
    vapp: Kept<Vapp>,
    d: VappDecision,
    s: Snapshot,
    compare: Compare[],
    writes: Write[],
  ): Promise<void> {
    const v = vapp.value;
    const key = kinds.vapp.key(v.id);
    if (d.end?.gone !== true) {
      const members = v.members
        .filter((m) => !m.leaving || s.specs.has(m.vm))
        .map(({ from, ...m }) =>
          s.specs.has(m.vm) ? { ...m, make: null } : { ...m, ...(from === undefined ? {} : { from }) },
        );
      const next = { ...v, members };
      if (JSON.stringify(next) !== JSON.stringify(v))
        writes.push({ put: key, value: writeRecord(kinds.vapp, next) });
      return;
    }
    writes.push({ del: key }, { del: kinds.vappSecret.key(v.id) }, { del: unique.name('vapp', v.name) });
    for (const n of v.networks) {
      const kept = s.networks.get(n.network);
      if (!n.own || kept === undefined) continue;
      // A VM that somebody put there keeps it.
      const used = [...s.specs.values()].some((x) => x.value.nics.some((nic) => nic.network === n.network));
      if (used) continue;
      compare.push({ key: kinds.network.key(n.network), modRevision: kept.modRevision });
      writes.push({ del: kinds.network.key(n.network) }, { del: unique.name('network', kept.value.name) });
      if (kept.value.vni !== undefined) writes.push({ del: unique.vni(kept.value.vni) });
    }
  }
}

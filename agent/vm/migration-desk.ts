import { decideMigration } from '../../core/decide/migrate.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { MigrateResult } from '../../core/domain/migration.js';
import type { VmOwn } from '../../core/domain/vm.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { epochKey, ledger as kinds } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { OpBook } from '../op-book.js';
import type { ReplicaDesk } from '../replica/replica-desk.js';
import { keptNow, type Kept, type Snapshot } from '../snapshot.js';
import type { Arrivals } from './actor.js';
import type { Observed } from './domains.js';
import { MigrationSource } from './migration-source.js';
import { MigrationTarget } from './migration-target.js';
import type { Ownership, Subject } from './ownership.js';
import type { Turns } from './turns.js';

/** Live migrations that this node has a part in: as source, as target, and to write how they ended. */
export class MigrationDesk implements Arrivals {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly wake: () => void;
  private readonly source: MigrationSource;
  private readonly target: MigrationTarget;
  /** Since when this agent has known of each, by op, monotonic ms. */
  private readonly known = new Map<string, number>();
  /** When it was first read that a VM was handed over to this node, and when its guest had gone on, by op. */
  private readonly handed = new Map<string, number>();
  private readonly goingOn = new Map<string, number>();
  /** Ops whose end is being written. */
  private readonly writing = new Set<string>();
  /** VMs that are being sent here, with the ledger's epoch then. */
  private readonly awaited = new Map<string, string>();
  /** VMs whose ownership is being read, and whether it rang since. */
  private readonly asked = new Map<string, boolean>();
  private readonly onHanded: (vmId: string, own: Kept<VmOwn>) => boolean;

  /**
   * @param onHanded - told of a VM that was handed over to this node, before the next pass reads that. Returns whether it goes on
   *   by that; the end of its turn wakes, then.
   */
  constructor(
    env: AgentEnv,
    ops: OpBook,
    own: Ownership,
    turns: Turns,
    replicas: ReplicaDesk,
    wake: () => void,
    onHanded: (vmId: string, own: Kept<VmOwn>) => boolean,
  ) {
    this.env = env;
    this.ops = ops;
    this.wake = wake;
    this.onHanded = onHanded;
    this.source = new MigrationSource(env, ops, own, turns, replicas);
    this.target = new MigrationTarget(env, ops, own, wake);
  }

  /** Whoever asked for it waits for its end: so that is not left to the next pass. */
  wentOn(s: Subject): void {
    const op = s.own.value.migration?.op ?? '';
    this.goingOn.set(op, this.env.clock.nowMs());
    const k = s.snapshot.ops.get(op);
    const { domain } = s;
    if (k === undefined || !domain?.mark) return;
    this.one(k, s.snapshot, this.env.clock.nowMs(), {
      ...domain,
      mark: { ...domain.mark, incoming: false },
    });
  }

  /** Whether a machine is about to end here, as its copy elsewhere is whole. */
  ending(): boolean {
    return this.source.ending();
  }

  /**
   * Something was written. Was it that a VM is handed over to this node, its guest stands still until that is known here:
   * so its record alone is read, and the pass that is due has time until the guest goes on.
   *
   * @returns whether it sees to that pass
   */
  rang(): boolean {
    for (const [id, epoch] of this.awaited) {
      if (this.asked.has(id)) {
        this.asked.set(id, true);
        continue;
      }
      void this.ask(id, epoch)
        .catch((e: unknown) => {
          this.env.log.warn(`what was handed over: ${errorRecord(e).message}`);
          this.wake();
        })
        .finally(() => this.asked.delete(id));
    }
    return this.awaited.size > 0;
  }

  private async ask(id: string, epoch: string): Promise<void> {
    const { ledger, node, clock } = this.env;
    for (;;) {
      this.asked.set(id, false);
      const [own, now] = await Promise.all([keptNow(ledger, kinds.vmOwn, id), ledger.get(epochKey)]).catch(
        () => [null, null],
      );
      const m = own?.value.owner === node ? own.value.migration : null;
      const handed = m?.handedOver === true;
      let goesOn = false;
      // Once each, as the machine was seen before. Else a pass was quicker, or the ledger is another one.
      if (own && handed && !this.handed.has(m.op) && this.awaited.delete(id) && now?.value === epoch) {
        this.handed.set(m.op, clock.nowMs());
        goesOn = this.onHanded(id, own);
      }
      if (!goesOn) this.wake();
      if (handed || this.asked.get(id) !== true || !this.awaited.has(id)) return;
    }
  }

  /** Begins what is due. Never waits. @param atMs - monotonic ms at the answer of that reading */
  look(s: Snapshot, atMs: number, domains: ReadonlyMap<string, Observed>): void {
    const open = [...s.ops.values()].filter((k) => k.value.kind === 'vm.migrate' && !opFinished(k.value));
    for (const map of [this.known, this.handed, this.goingOn])
      for (const id of map.keys()) if (!open.some((k) => k.value.id === id)) map.delete(id);
    this.awaited.clear();
    for (const k of open) this.one(k, s, atMs, domains.get(k.value.subject.id) ?? null);
  }

  private one(k: Kept<Op>, snapshot: Snapshot, atMs: number, domain: Observed | null): void {
    const { env } = this;
    const op = k.value;
    const id = op.subject.id;
    const spec = snapshot.specs.get(id);
    const own = snapshot.owns.get(id);
    if (spec === undefined || own === undefined) return;
    const nowMs = env.clock.nowMs();
    const sinceMs = this.known.get(op.id) ?? nowMs;
    this.known.set(op.id, sinceMs);
    const m = own.value.migration;
    if (m?.op === op.id && m.handedOver && own.value.owner === env.node && !this.handed.has(op.id))
      this.handed.set(op.id, atMs);
    if (m?.op === op.id && m.to === env.node && own.value.state === 'migrating')
      this.awaited.set(id, String(snapshot.meta?.value.epoch));
    const s: Subject = { id, spec, own, domain, snapshot };
    const step = decideMigration({
      me: env.node,
      op,
      spec: spec.value,
      own: own.value,
      domain,
      live: (node) => snapshot.lives.get(node)?.createRevision,
      knownMs: nowMs - sinceMs,
    });
    const { name } = spec.value;
    if (step.do !== 'follow' && this.source.has(id)) return;
    switch (step.do) {
      case 'none':
        return;
      case 'prepare':
        return this.target.prepare(k, step.args, s);
      case 'begin':
        return this.source.begin(k, step.args, step.ready, s);
      case 'follow':
        return this.source.follow(k, step.args, s, wantedBack(s, op));
      case 'done':
        return this.write(k, name, 'info', step.step, (o) =>
          this.ops.finish(o, 'done', step.step, { args: { ...step.args, result: this.result(op.id, s) } }),
        );
      case 'cancelled':
        return this.write(k, name, 'info', step.step, (o) => this.ops.finish(o, 'cancelled', step.step));
      case 'fail':
        return this.write(k, name, 'warning', step.error.message, (o) => this.ops.fail(o, step.error));
    }
  }

  private result(op: string, { own }: Subject): MigrateResult {
    const said = own.value.migration?.['stood'] as { pauseMs?: number | null; totalMs?: number } | undefined;
    const handed = this.handed.get(op);
    const wentOn = this.goingOn.get(op);
    const here = handed === undefined || wentOn === undefined ? null : Math.max(0, wentOn - handed);
    const there = said?.pauseMs ?? null;
    return {
      totalMs: Math.round((said?.totalMs ?? 0) + (here ?? 0)),
      pauseMs: here === null || there === null ? null : Math.round(here + there),
      memoryBytes: null,
    };
  }

  private write(
    k: Kept<Op>,
    name: string,
    level: 'info' | 'warning',
    text: string,
    act: (k: Kept<Op>) => Promise<void>,
  ): void {
    const { id } = k.value;
    if (this.writing.has(id) || this.ops.hasEnded(k.value)) return;
    this.writing.add(id);
    void act(k)
      .then(() => announce(this.env, level, name, `migration: ${text}`))
      .catch((e: unknown) => this.env.log.warn(`writing op ${id}: ${errorRecord(e).message}`))
      .finally(() => {
        this.writing.delete(id);
        this.wake();
      });
  }
}

/** Why a migration under way is to end, in words; null: it goes on. */
function wantedBack({ id, spec, snapshot }: Subject, op: Op): FlotillaError | null {
  const back = (text: string): FlotillaError =>
    new FlotillaError('cancelled', `VM "${spec.value.name}" stays where it is: ${text}`, {
      hint: 'Ask for it again when it is wanted.',
    });
  if (op.cancelAsked) return back('its migration was cancelled');
  if (spec.value.power === 'stopped') return back('it was asked to stop');
  for (const { value: o } of snapshot.ops.values())
    if (o.subject.id === id && o.kind === 'vm.delete' && !opFinished(o)) return back('it is being deleted');
  return null;
}

import { isReplicated } from '../../core/domain/disk.js';
import { checkNothingLeft } from '../../core/decide/lockstep.js';
import { newSnapshot, revertTo, snapshotBytes, type SnapshotSubject } from '../../core/decide/vm-snapshot.js';
import { FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { snapshotArgs, snapshotsMax, type VmSnapshot } from '../../core/domain/vm-snapshot.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { SnapshotView } from '../../core/wire/rest.js';
import type { Kept } from '../tables.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, opView, repeated } from './ops.js';

type Names = 'snapshotList' | 'snapshotCreate' | 'snapshotRevert' | 'snapshotDelete';

/** Snapshots of VMs, as people ask for them. The owner's agent takes them, and goes back to them. */
export function snapshotHandlers(deps: ApiDeps): Some<Names> {
  const snapshots = new Snapshots(deps);
  return {
    snapshotList: async ({ params }) => ({ body: { items: await snapshots.list(params.vm) } }),
    async snapshotCreate(ask) {
      const { op, id } = await snapshots.create(ask);
      return { body: { op: opView(deps.view, op), snapshot: await snapshots.one(id) } };
    },
    snapshotRevert: async (ask) => ({ body: { op: opView(deps.view, await snapshots.revert(ask)) } }),
    snapshotDelete: async (ask) => ({ body: await snapshots.remove(ask) }),
  };
}

interface Read {
  readonly spec: Kept<VmSpec>;
  readonly own: Kept<VmOwn>;
  readonly subject: SnapshotSubject;
}

/** Snapshots of VMs, and packages, which of a VM that runs are made from one. */
export class Snapshots {
  private readonly deps: ApiDeps;

  constructor(deps: ApiDeps) {
    this.deps = deps;
  }

  async list(ref: string): Promise<SnapshotView[]> {
    const vm = await idOf(this.deps.view, 'vm', ref);
    return this.of(vm)
      .sort((a, b) => b.takenMs - a.takenMs || (a.name < b.name ? -1 : 1))
      .map((x) => this.shown(x));
  }

  async one(id: string): Promise<SnapshotView> {
    const kept = await fresh(this.deps, kinds.vmSnapshot, id);
    if (kept === null) throw noSnapshot(id);
    return this.shown(kept.value);
  }

  async create(ask: Ask<'snapshotCreate'>): Promise<{ op: Op; id: string }> {
    const { deps } = this;
    const vm = await idOf(deps.view, 'vm', ask.params.vm);
    const mark = requestMark(ask);
    const ids = this.ids(ask, `snapshotCreate ${vm}`);
    return commit(deps, `VM "${ask.params.vm}"`, async () => {
      const before = ids.again ? await repeated(deps, ids.op, mark) : null;
      if (before !== null) return { change: null, answer: () => ({ op: before, id: ids.snapshot }) };
      const r = await this.read(vm, ask.params.vm);
      const x = this.make(r, ids.snapshot, ask.body);
      const op = this.op(ids.op, 'vm.snapshot', r, ask.who, { snapshot: x.id, before: null, request: mark });
      return {
        change: this.change(r, op).at(kinds.vmSnapshot.key(x.id), null).put(kinds.vmSnapshot, x.id, x),
        answer: () => ({ op, id: x.id }),
      };
    });
  }

  async revert(ask: Ask<'snapshotRevert'>): Promise<Op> {
    const { deps } = this;
    const vm = await idOf(deps.view, 'vm', ask.params.vm);
    const mark = requestMark(ask);
    const ids = this.ids(ask, `snapshotRevert ${vm}`);
    return commit(deps, `VM "${ask.params.vm}"`, async () => {
      const before = ids.again ? await repeated(deps, ids.op, mark) : null;
      if (before !== null) return { change: null, answer: () => before };
      const r = await this.read(vm, ask.params.vm);
      const to = await this.find(r, ask.params.snapshot);
      // Said now what would be said when it is done.
      revertTo(r.subject, to.value, { newId: () => deps.chance.uuid() });
      const { spec, own } = r.subject;
      checkNothingLeft(`VM "${spec.name}"`, own, deps.view.ledger.tables.node);
      const first = ask.body.snapshotBefore
        ? this.make(r, ids.snapshot, {
            note: `Before going back to ${to.value.name}`,
            consistency: 'auto',
          })
        : null;
      const args = { snapshot: to.value.id, before: first?.id ?? null, request: mark };
      const op = this.op(ids.op, 'vm.revert', r, ask.who, args);
      const change = this.change(r, op).at(kinds.vmSnapshot.key(to.value.id), to);
      if (first !== null)
        change.at(kinds.vmSnapshot.key(first.id), null).put(kinds.vmSnapshot, first.id, first);
      return { change, answer: () => op };
    });
  }

  /**
   * Its node packs the VM; whoever asked fetches it then. Disks that something may write to are packed as they were in a snapshot,
   * which goes with the operation.
   */
  async pack(ask: Ask<'vmExport'>): Promise<Op> {
    const { deps } = this;
    const vm = await idOf(deps.view, 'vm', ask.params.vm);
    const mark = requestMark(ask);
    const ids = this.ids(ask, `vmExport ${vm}`);
    return commit(deps, `VM "${ask.params.vm}"`, async () => {
      const before = ids.again ? await repeated(deps, ids.op, mark) : null;
      if (before !== null) return { change: null, answer: () => before };
      const r = await this.read(vm, ask.params.vm);
      const same = deps.view.vmOps(vm).find((o) => o.kind === 'vm.export' && !opFinished(o));
      if (same !== undefined) return { change: null, answer: () => same };
      const { spec, own, disks } = r.subject;
      const off = own.state === 'stopped' && spec.power === 'stopped';
      if (off && !disks.some(isReplicated)) {
        const op = this.op(ids.op, 'vm.export', r, ask.who, { request: mark });
        return { change: this.change(r, op), answer: () => op };
      }
      const made = this.make(r, ids.snapshot, {
        note: 'For an export; it goes with that',
        consistency: 'auto',
      });
      const x = { ...made, forOp: ids.op };
      const args = { snapshot: x.id, before: null, taken: false, request: mark };
      const op = this.op(ids.op, 'vm.export', r, ask.who, args);
      const change = this.change(r, op).at(kinds.vmSnapshot.key(x.id), null).put(kinds.vmSnapshot, x.id, x);
      return { change, answer: () => op };
    });
  }

  async remove(ask: Ask<'snapshotDelete'>): Promise<SnapshotView> {
    const { deps } = this;
    const vm = await idOf(deps.view, 'vm', ask.params.vm);
    return commit(deps, `Snapshot "${ask.params.snapshot}"`, async () => {
      const r = await this.read(vm, ask.params.vm);
      const kept = await this.find(r, ask.params.snapshot);
      const x = kept.value;
      const template =
        x.template === undefined ? undefined : deps.view.ledger.tables.template.get(x.template);
      if (template !== undefined)
        throw new FlotillaError(
          'in-use',
          `The snapshot "${x.name}" is the data of template "${template.value.name}"`,
          { hint: 'It goes with the template: flotilla template delete.' },
        );
      const user = deps.view.vmOps(vm).find((o) => {
        const args = snapshotArgs(o);
        return args !== null && !opFinished(o) && (args.snapshot === x.id || args.before === x.id);
      });
      if (user !== undefined)
        throw new FlotillaError('in-use', `The snapshot "${x.name}" is in use: ${user.kind} is under way`, {
          hint: `Wait for it, or end it: flotilla op cancel ${user.id}.`,
        });
      const reader = [...deps.view.ledger.tables.disk.values()].find(
        ({ value: d }) => d.state === 'wanted' && d.source.kind === 'snapshot' && d.source.snapshot === x.id,
      );
      if (reader !== undefined)
        throw new FlotillaError(
          'in-use',
          `The snapshot "${x.name}" is in use: a disk "${reader.value.name}" is being made from it`,
          { hint: 'Wait until that is ready.' },
        );
      const gone: VmSnapshot = { ...x, state: 'deleting' };
      const change = new Change().at(kinds.vmSnapshot.key(x.id), kept).put(kinds.vmSnapshot, x.id, gone);
      return { change, answer: () => this.shown(gone) };
    });
  }

  private ids(
    ask: { who: string; idempotencyKey: string | null },
    route: string,
  ): { op: string; snapshot: string; again: boolean } {
    const { chance } = this.deps;
    const { who, idempotencyKey: key } = ask;
    return {
      op: idFromKey(chance, who, route, key),
      snapshot: idFromKey(chance, who, `${route} snapshot`, key),
      again: key !== null,
    };
  }

  private make(
    r: Read,
    id: string,
    o: { name?: string | undefined; note: string; consistency: 'auto' | 'crash' | 'filesystem' },
  ): VmSnapshot {
    const { view, clock, chance } = this.deps;
    const { vmSnapshot } = view.ledger.tables;
    if (vmSnapshot.size >= snapshotsMax)
      throw new FlotillaError(
        'ledger-full',
        `The cluster has ${vmSnapshot.size} snapshots; no more are taken`,
        {
          hint: 'Delete some that are not needed any more.',
        },
      );
    const nowMs = clock.wallMs();
    const name = o.name ?? new Date(nowMs).toISOString().slice(0, 19).replace('T', ' ').replaceAll(':', '.');
    return newSnapshot(r.subject, {
      ...o,
      id,
      name,
      keptFor: [],
      nowMs,
      newId: () => chance.uuid(),
    });
  }

  /** @throws FlotillaError `wrong-state`: something is under way with it that a snapshot has to wait for */
  private op(
    id: string,
    kind: 'vm.snapshot' | 'vm.revert' | 'vm.export',
    r: Read,
    who: string,
    args: Op['args'],
  ): Op {
    const { view } = this.deps;
    const { id: vm, name } = r.spec.value;
    const busy = view.vmOps(vm).find((o) => !opFinished(o) && !beside.has(o.kind));
    if (busy !== undefined && args['snapshot'] !== undefined)
      throw new FlotillaError('wrong-state', `VM "${name}" has ${busy.kind} under way`, {
        hint: `Wait for it, or end it: flotilla op cancel ${busy.id}.`,
      });
    return newOp(this.deps, {
      id,
      kind,
      subject: { kind: 'vm', id: vm, name },
      node: r.own.value.owner,
      who,
      args,
    });
  }

  private change(r: Read, op: Op): Change {
    const { id } = r.spec.value;
    return new Change()
      .at(kinds.vmSpec.key(id), r.spec)
      .at(kinds.vmOwn.key(id), r.own)
      .at(kinds.op.key(op.id), null)
      .put(kinds.op, op.id, op);
  }

  private async read(id: string, ref: string): Promise<Read> {
    const { view } = this.deps;
    const [spec, own] = await Promise.all([
      fresh(this.deps, kinds.vmSpec, id),
      fresh(this.deps, kinds.vmOwn, id),
      view.ledger.refresh('disk', 'vmSnapshot'),
    ]);
    if (spec === null || own === null) throw notFound('vm', ref);
    const subject = {
      spec: spec.value,
      own: own.value,
      disks: view.vmDisks(id).map((k) => k.value),
      pool: (p: string) => view.ledger.tables.pool.get(p)?.value,
      snapshots: this.of(id),
    };
    return { spec, own, subject };
  }

  private of(vm: string): VmSnapshot[] {
    return snapshotsOf(this.deps, vm);
  }

  private find(r: Read, ref: string): Promise<Kept<VmSnapshot>> {
    return findSnapshot(this.deps, r.spec.value.id, ref);
  }

  private shown(x: VmSnapshot): SnapshotView {
    const { view } = this.deps;
    const { node, vmOwn } = view.ledger.tables;
    const owner = vmOwn.get(x.vm)?.value.owner;
    const away = x.node !== null && owner !== undefined && x.node !== owner;
    const outOfReach =
      x.node !== null && !node.has(x.node)
        ? `it was on ${x.node}, which is in the cluster no more`
        : away
          ? `it lies on ${x.node}, and the VM is on ${owner}`
          : '';
    return { ...x, usedBytes: snapshotBytes(x), outOfReach };
  }
}

const snapshotsOf = ({ view }: ApiDeps, vm: string): VmSnapshot[] =>
  [...view.ledger.tables.vmSnapshot.values()].map((k) => k.value).filter((x) => x.vm === vm);

/** A snapshot of that VM, by name or id. @throws FlotillaError `not-found` */
export async function findSnapshot(deps: ApiDeps, vm: string, ref: string): Promise<Kept<VmSnapshot>> {
  const known = snapshotsOf(deps, vm);
  const x =
    known.find((y) => y.id === ref.toLowerCase()) ?? known.find((y) => y.name === ref.normalize('NFC'));
  const kept = x === undefined ? null : await fresh(deps, kinds.vmSnapshot, x.id);
  if (kept === null) throw noSnapshot(ref);
  return kept;
}

/** What may be under way on a VM when a snapshot is asked for. */
const beside: ReadonlySet<Op['kind']> = new Set<Op['kind']>([
  'vm.start',
  'vm.stop',
  'vm.reboot',
  'vm.reset',
  'vm.pause',
  'vm.resume',
  'vm.export',
]);

const noSnapshot = (ref: string): FlotillaError =>
  new FlotillaError('not-found', `There is no snapshot "${ref.slice(0, 100)}" of that VM`, {
    hint: 'See which there are: flotilla snapshot list.',
  });

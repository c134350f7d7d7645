import { copyOf, linkedCopy } from '../../core/decide/vapp-copy.js';
import { planVapp } from '../../core/decide/vapp-doc.js';
import { newSnapshot } from '../../core/decide/vm-snapshot.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Op } from '../../core/domain/op.js';
import type { Vapp, VappArgs, VappFrom, VappMember } from '../../core/domain/vapp.js';
import { snapshotsMax, type VmSnapshot } from '../../core/domain/vm-snapshot.js';
import { ledger as kinds, readRecord } from '../../core/wire/ledger-keys.js';
import type { VappApplied, VappDoc } from '../../core/wire/rest.js';
import { checkApply } from './access.js';
import { commit, fresh, idFromKey, type Change } from './commit.js';
import type { ApiDeps, Ask } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, opView } from './ops.js';
import { busy, contextOf, openOf, recordsOf, roomForVapp } from './vapps.js';
import type { VmWrites } from './vm-write.js';

type Value = string | number | boolean;

export interface Begin {
  readonly from: VappFrom;
  readonly snapshot: VmSnapshot;
}

/** A new vApp whose VMs begin as others were. */
export interface Copy {
  readonly document: VappDoc;
  readonly values: Readonly<Record<string, Value>>;
  /** Of the original; what is given in `values` counts instead. */
  readonly secrets: Readonly<Record<string, Value>>;
  /** What a member begins as; null: it has no disks. */
  readonly from: (member: string) => Begin | null;
  readonly linked: boolean;
  readonly kind: 'vapp.clone' | 'vapp.deploy';
  readonly start: boolean;
  readonly dryRun: boolean;
  readonly opId: string;
  readonly who: string;
}

export interface Copied {
  readonly body: VappApplied;
}
export type Shown = (id: string) => NonNullable<VappApplied['vapp']>;

/** What a repeated request is answered; null: it is a new one. */
export async function again(
  deps: ApiDeps,
  opId: string,
  key: string | null,
  shown: Shown,
): Promise<Copied | null> {
  const op = key === null ? null : await fresh(deps, kinds.op, opId);
  if (op === null) return null;
  const { view } = deps;
  const vapp = view.cell('vapp', op.value.subject.id) === undefined ? null : shown(op.value.subject.id);
  return { body: { placement: [], warnings: [], changes: [], op: opView(view, op.value), vapp } };
}

/** A vApp beside another, as that is now. */
export async function cloneVapp(
  deps: ApiDeps,
  writes: VmWrites,
  ask: Ask<'vappClone'>,
  shown: Shown,
): Promise<Copied> {
  const { view, chance } = deps;
  // Who operates this one alone makes no other.
  checkApply(ask.identity, null, null);
  view.freshness();
  const { name, linked, values, start, dryRun } = ask.body;
  const id = await idOf(view, 'vapp', ask.params.vapp);
  const opId = idFromKey(chance, ask.who, `vappClone ${id}`, ask.idempotencyKey);
  return commit<Copied>(deps, `vApp "${name}"`, async () => {
    await view.ledger.refresh();
    const before = await again(deps, opId, ask.idempotencyKey, shown);
    if (before !== null) return { change: null, answer: () => before };
    const kept = await fresh(deps, kinds.vapp, id);
    if (kept === null) throw notFound('vapp', ask.params.vapp);
    const source = kept.value;
    checkWhole(deps, source);
    const { document, sources } = copyOf(source, sourceOf(deps), name);
    const snapshots = new Map<string, Begin>();
    for (const [member, vm] of sources) {
      const snapshot = wouldBe(deps, vm);
      snapshots.set(member, { from: { vm, snapshot: snapshot.id, linked, keep: false }, snapshot });
    }
    if (view.ledger.tables.vmSnapshot.size + snapshots.size > snapshotsMax)
      throw new FlotillaError('ledger-full', `The cluster would have more than ${snapshotsMax} snapshots`, {
        hint: 'Delete some that are not needed any more.',
      });
    const key = kinds.vappSecret.key(id);
    const secret = await deps.ledger.get(key);
    const {
      change,
      id: made,
      body,
    } = await planCopy(deps, writes, {
      document,
      values,
      secrets: secret === null ? {} : readRecord(kinds.vappSecret, key, secret.value).values,
      from: (member) => snapshots.get(member) ?? null,
      linked,
      kind: 'vapp.clone',
      start,
      dryRun,
      opId,
      who: ask.who,
    });
    // It must still stand so: an edit of it meanwhile has it planned anew.
    change?.refersTo(kinds.vapp.key(id), kept);
    return { change, answer: () => ({ body: { ...body, vapp: change === null ? null : shown(made) } }) };
  });
}

/** What a copy makes: places all of it, and writes it as one. @returns no change where it is only asked what would be */
export async function planCopy(
  deps: ApiDeps,
  writes: VmWrites,
  copy: Copy,
): Promise<{ readonly change: Change | null; readonly id: string; readonly body: VappApplied }> {
  const { view } = deps;
  const { document, warnings } = copy.linked
    ? linkedCopy(
        copy.document,
        (p) => view.ledger.tables.pool.get(p)?.value,
        (m) => view.ledger.tables.vmSpec.get(copy.from(m)?.from.vm ?? '')?.value.ha.enabled === true,
      )
    : { document: copy.document, warnings: [] };
  await roomForVapp(deps, document.name);
  const planned = planVapp(document, copy.values, null, copy.secrets, contextOf(deps, null));
  const begins = (m: VappMember): VappMember => {
    const from = copy.from(m.name)?.from;
    return from === undefined ? m : { ...m, from };
  };
  const vapp: Vapp = { ...planned.vapp, members: planned.vapp.members.map(begins) };
  const plan = { ...planned, vapp, births: planned.births.map(begins) };
  const seats = await writes.placeMany(plan.births, plan.networks, vapp, (m) => {
    const c = copy.from(m.name);
    return c === null ? null : { snapshot: c.snapshot, linked: c.from.linked };
  });
  const said = {
    changes: [...plan.changes],
    placement: vapp.members.flatMap((m) => {
      const seat = seats.get(m.vm);
      return seat === undefined ? [] : [{ member: m.name, node: seat.node, standby: seat.standby }];
    }),
    warnings: [...new Set([...warnings, ...[...seats.values()].flatMap((x) => x.warnings)])],
    vapp: null,
  };
  if (copy.dryRun) return { change: null, id: vapp.id, body: { ...said, op: null } };
  const op: Op = newOp(deps, {
    id: copy.opId,
    kind: copy.kind,
    subject: { kind: 'vapp', id: vapp.id, name: vapp.name },
    node: null,
    who: copy.who,
    args: {
      phase: copy.kind === 'vapp.clone' ? 'snapshot' : 'make',
      start: copy.start,
    } satisfies Partial<VappArgs>,
  });
  const change = recordsOf(deps, plan, null, null).at(kinds.op.key(op.id), null).put(kinds.op, op.id, op);
  return { change, id: vapp.id, body: { ...said, op: opView(view, op) } };
}

export const sourceOf = ({ view }: ApiDeps): Parameters<typeof copyOf>[1] => ({
  spec: (vm) => view.ledger.tables.vmSpec.get(vm)?.value,
  disks: (vm) => view.vmDisks(vm).map((k) => k.value),
  network: (n) => view.ledger.tables.network.get(n)?.value,
});

/** What changes nothing of what a vApp is. */
const powerKinds: ReadonlySet<Op['kind']> = new Set([
  'vapp.start',
  'vapp.stop',
  'vapp.suspend',
  'vapp.resume',
  'vapp.restart',
]);

/** @throws FlotillaError `wrong-state`: it is being made, changed or deleted, or members of it are not there */
export function checkWhole(deps: ApiDeps, v: Vapp): void {
  const open = openOf(deps, v.id);
  if (open !== null && !powerKinds.has(open.kind)) throw busy(v.name, open);
  const missing = v.members.filter((m) => !deps.view.ledger.tables.vmSpec.has(m.vm));
  if (missing.length === 0) return;
  throw new FlotillaError(
    'wrong-state',
    `vApp "${v.name}" is not whole: ${missing
      .map((m) => m.name)
      .slice(0, 5)
      .join(', ')} is not there`,
    { hint: 'Apply its document again, or one without those members.' },
  );
}

/** The snapshot of a VM that an agent will take. @throws FlotillaError `wrong-state`, `ledger-full`: none can be taken */
export function wouldBe({ view, chance, clock }: ApiDeps, vm: string): VmSnapshot {
  const { tables } = view.ledger;
  const spec = tables.vmSpec.get(vm)?.value;
  const own = tables.vmOwn.get(vm)?.value;
  if (spec === undefined || own === undefined) throw notFound('vm', vm);
  const id = chance.uuid();
  return newSnapshot(
    {
      spec,
      own,
      disks: view.vmDisks(vm).map((k) => k.value),
      pool: (p) => tables.pool.get(p)?.value,
      snapshots: [...tables.vmSnapshot.values()].map((k) => k.value).filter((x) => x.vm === vm),
    },
    {
      id,
      name: id,
      note: '',
      consistency: 'auto',
      keptFor: [],
      nowMs: clock.wallMs(),
      newId: () => chance.uuid(),
    },
  );
}

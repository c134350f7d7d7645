import { membersOf } from '../../core/decide/vapp.js';
import { planVapp, documentOf, type VappPlan } from '../../core/decide/vapp-doc.js';
import { FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { vappArgs, type Vapp, type VappArgs } from '../../core/domain/vapp.js';
import type { Power } from '../../core/domain/vm.js';
import { ledger as kinds, readRecord, unique } from '../../core/wire/ledger-keys.js';
import type { VappApplied, VappDoc } from '../../core/wire/rest.js';
import { checkApply } from './access.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { Kept } from '../tables.js';
import type { ApiDeps, Ask, Some } from './context.js';
import { idOf, notFound, poolOf } from './lookup.js';
import { nameFree } from './names.js';
import { newOp, opView, repeated } from './ops.js';
import { page } from './page.js';
import { Snapshots } from './snapshots.js';
import { vappSchemaDocument } from './vapp-schema.js';
import { cloneVapp } from './vapp-copies.js';
import { VmWrites } from './vm-write.js';

/** vApps in a cluster, at most. */
const vappsMax = 256;
const vniFirst = 4_096;
const vniLast = 16_777_215;

type Names =
  | 'vappExport'
  | 'vappList'
  | 'vappGet'
  | 'vappApply'
  | 'vappAction'
  | 'vappClone'
  | 'vappDelete'
  | 'vappDocument'
  | 'vappSchema';

/** vApps: made, edited and told what to do as one. The doing is the agents'. */
export function vappHandlers(deps: ApiDeps): Some<Names> {
  const { view } = deps;
  const writes = new VmWrites(deps);
  const snapshots = new Snapshots(deps);
  let turn: Promise<unknown> = Promise.resolve();
  const shown = (id: string) => shownVapp(view, id);
  return {
    async vappList({ query }) {
      return page(view, view.list('vapp'), query);
    },
    async vappGet({ params }) {
      return { body: shown(await idOf(view, 'vapp', params.vapp)) };
    },
    async vappDocument({ params, query }) {
      return { body: (await vappDocument(deps, params.vapp, query.template)).document };
    },
    async vappSchema() {
      return { body: vappSchemaDocument() };
    },
    vappApply(ask) {
      const mine = turn.then(() => apply(deps, writes, ask, shown));
      turn = mine.catch(() => undefined);
      return mine;
    },
    async vappAction(ask) {
      const { action } = ask.params;
      const phase = action === 'force-stop' ? 'stop' : action;
      const op = await begin(deps, ask, `vapp.${phase}`, (v) => {
        const { group } = ask.body;
        if (group !== null && !v.groups.some((g) => g.name === group))
          throw new FlotillaError('not-found', `vApp "${v.name}" has no vApp "${group}" in it`, {
            hint: `There are: ${v.groups.map((g) => g.name).join(', ') || 'none'}.`,
          });
        // A word on what there is nothing of would end at once as if it had done something.
        const power = ({ suspend: 'running', resume: 'paused' } as Partial<Record<typeof action, Power>>)[
          action
        ];
        if (
          power !== undefined &&
          !membersOf(v, group).some((m) => view.ledger.tables.vmSpec.get(m.vm)?.value.power === power)
        )
          throw new FlotillaError(
            'wrong-state',
            `vApp "${v.name}" cannot be ${action}${action === 'resume' ? 'd' : 'ed'}: none of its VMs is ${power}`,
            {
              hint:
                power === 'running' ? 'Start it first.' : 'Only what is suspended is resumed; or start it.',
            },
          );
        return { phase, group, force: action === 'force-stop' };
      });
      return { body: { op: opView(view, op) } };
    },
    vappClone(ask) {
      const mine = turn.then(() => cloneVapp(deps, writes, ask, shown));
      turn = mine.catch(() => undefined);
      return mine;
    },
    async vappExport(ask) {
      const { vapp } = await vappDocument(deps, ask.params.vapp);
      const members = vapp.members.filter((m) => !m.leaving);
      if (members.length === 0)
        throw new FlotillaError('wrong-state', `vApp "${vapp.name}" has no VMs to export`, {
          hint: 'Give it some: flotilla apply.',
        });
      const ops: Op[] = [];
      for (const m of members)
        ops.push(
          await snapshots.pack({
            ...(ask as never as Ask<'vmExport'>),
            params: { vm: m.vm },
            idempotencyKey: null,
          }),
        );
      return { body: { ops: ops.map((op) => opView(view, op)) } };
    },
    async vappDelete(ask) {
      const { force } = ask.query;
      const op = await begin(deps, ask, 'vapp.delete', (v) => {
        const runs = v.members.filter((m) => view.ledger.tables.vmOwn.get(m.vm)?.value.state !== 'stopped');
        const there = runs.filter((m) => view.ledger.tables.vmSpec.has(m.vm));
        if (there.length > 0 && !force)
          throw new FlotillaError(
            'wrong-state',
            `vApp "${v.name}" cannot be deleted: ${there
              .map((m) => m.name)
              .slice(0, 5)
              .join(', ')} runs`,
            {
              hint: 'Stop it first, or delete with force.',
            },
          );
        return { phase: 'delete', force };
      });
      return { body: { op: opView(view, op) } };
    },
  };
}

/** @throws FlotillaError `not-found` */
export function shownVapp(view: ApiDeps['view'], id: string): NonNullable<VappApplied['vapp']> {
  const v = view.cell('vapp', id);
  if (v === undefined) throw notFound('vapp', id);
  return v.view;
}

/** A vApp as it is now, and the document that makes its like. @throws FlotillaError `not-found` */
export async function vappDocument(
  deps: Pick<ApiDeps, 'view' | 'ledger'>,
  ref: string,
  asTemplate = false,
): Promise<{ readonly vapp: Vapp; readonly document: VappDoc }> {
  const { view } = deps;
  const kept = await fresh(deps as ApiDeps, kinds.vapp, await idOf(view, 'vapp', ref));
  if (kept === null) throw notFound('vapp', ref);
  await view.ledger.refresh('vmSpec', 'vmOwn', 'disk', 'network');
  const { tables } = view.ledger;
  const document = documentOf(
    kept.value,
    {
      spec: (vm) => tables.vmSpec.get(vm)?.value,
      disks: (vm) => view.vmDisks(vm).map((k) => k.value),
      nameOf: (kind, id) => tables[kind].get(id)?.value.name,
      network: (id) => tables.network.get(id)?.value,
    },
    asTemplate,
  );
  return { vapp: kept.value, document };
}

/** The unfinished operation on a vApp; null: none. */
export function openOf(deps: ApiDeps, id: string): Op | null {
  for (const { value: o } of deps.view.ledger.tables.op.values())
    if (o.subject.id === id && !opFinished(o)) return o;
  return null;
}

export const busy = (name: string, open: Op): FlotillaError =>
  new FlotillaError('wrong-state', `${open.kind} of vApp "${name}" is not finished`, {
    hint: `Wait for its end, or cancel it: flotilla op cancel ${open.id}.`,
  });

/** One operation on a vApp at a time; the same one asked for twice is one. */
async function begin(
  deps: ApiDeps,
  ask: Ask<'vappAction'> | Ask<'vappDelete'>,
  kind: Op['kind'],
  argsOf: (v: Vapp) => Partial<VappArgs> & Pick<VappArgs, 'phase'>,
): Promise<Op> {
  const { view } = deps;
  const mark = requestMark(ask);
  const key = ask.idempotencyKey;
  const opId = idFromKey(deps.chance, ask.who, `${kind} ${ask.params.vapp}`, key);
  const before = key === null ? null : await repeated(deps, opId, mark);
  if (before !== null) return before;
  const id = await idOf(view, 'vapp', ask.params.vapp);
  return commit<Op>(deps, `vApp "${ask.params.vapp}"`, async () => {
    const kept = await fresh(deps, kinds.vapp, id);
    if (kept === null) throw notFound('vapp', ask.params.vapp);
    await view.ledger.refresh('op', 'vmSpec');
    const args = argsOf(kept.value);
    const open = openOf(deps, id);
    if (open !== null) {
      const now = vappArgs(open);
      const same =
        open.kind === kind && now?.force === (args.force ?? false) && now.group === (args.group ?? null);
      if (same) return { change: null, answer: () => open };
      throw busy(kept.value.name, open);
    }
    const op = newOp(deps, {
      id: opId,
      kind,
      subject: { kind: 'vapp', id, name: kept.value.name },
      node: null,
      who: ask.who,
      args: { ...args, request: mark },
    });
    // Written again unchanged: of two who begin something at once, one is planned anew.
    const change = new Change()
      .promises(kinds.vapp.key(id), kept)
      .at(kinds.op.key(op.id), null)
      .put(kinds.op, op.id, op);
    return { change, answer: () => op };
  });
}

type Answer = { readonly body: VappApplied };

async function apply(
  deps: ApiDeps,
  writes: VmWrites,
  ask: Ask<'vappApply'>,
  shown: (id: string) => NonNullable<VappApplied['vapp']>,
): Promise<Answer> {
  const { view } = deps;
  const { document: doc, values, dryRun, start, acceptEulas } = ask.body;
  view.freshness();
  const key = ask.idempotencyKey;
  // The body has secrets: its mark stays out of the ledger, a key alone says that it is the same request.
  const opId = idFromKey(deps.chance, ask.who, 'vappApply', key);
  let patches: VappPlan['patches'] = [];
  const answer = await commit<Answer>(deps, `vApp "${doc.name}"`, async () => {
    await view.ledger.refresh();
    const again = key === null ? null : await fresh(deps, kinds.op, opId);
    const nothing = { placement: [], warnings: [], changes: [] };
    if (again !== null)
      return {
        change: null,
        answer: () => ({
          body: {
            ...nothing,
            op: again.value,
            vapp: view.cell('vapp', again.value.subject.id)?.view ?? null,
          },
        }),
      };
    const known = view.find('vapp', doc.name);
    const kept = known === null ? null : await fresh(deps, kinds.vapp, known);
    const before = kept?.value ?? null;
    checkApply(ask.identity, before, null);
    const open = before === null ? null : openOf(deps, before.id);
    if (open !== null && before !== null && !dryRun) throw busy(before.name, open);
    const secretKey = before === null ? null : kinds.vappSecret.key(before.id);
    const secretKept = secretKey === null ? null : await deps.ledger.get(secretKey);
    const secrets =
      secretKept === null || secretKey === null
        ? {}
        : readRecord(kinds.vappSecret, secretKey, secretKept.value).values;
    const plan = planVapp(doc, values, before, secrets, contextOf(deps, before));
    checkApply(ask.identity, before, plan.vapp);
    if (before === null && (doc.eulas?.length ?? 0) > 0 && !acceptEulas && !dryRun)
      throw new FlotillaError(
        'bad-input',
        `vApp "${doc.name}" comes with ${doc.eulas?.length} licences to accept`,
        {
          hint: 'Read them in the document (eulas) and say so: flotilla apply --accept-eulas.',
        },
      );
    if (before === null) await roomForVapp(deps, doc.name);
    const seats = await writes.placeMany(plan.births, plan.networks, plan.vapp);
    const placement = plan.vapp.members.flatMap((m) => {
      const own = view.ledger.tables.vmOwn.get(m.vm)?.value;
      const seat = seats.get(m.vm);
      const node = seat?.node ?? own?.owner;
      return node === undefined || m.leaving
        ? []
        : [{ member: m.name, node, standby: seat === undefined ? (own?.standby ?? null) : seat.standby }];
    });
    const said = {
      changes: [...plan.changes],
      placement,
      warnings: [...new Set([...seats.values()].flatMap((x) => x.warnings))],
    };
    const unchanged = plan.changes.length === 0 && plan.secrets === null;
    if (dryRun || unchanged) {
      const vapp = before === null ? null : shown(before.id);
      return { change: null, answer: () => ({ body: { ...said, op: null, vapp } }) };
    }
    const { vapp } = plan;
    const change = recordsOf(deps, plan, kept, secretKept);
    const work = before === null || plan.births.length > 0 || plan.leavers.length > 0;
    const op = !work
      ? null
      : newOp(deps, {
          id: opId,
          kind: before === null ? 'vapp.deploy' : 'vapp.update',
          subject: { kind: 'vapp', id: vapp.id, name: vapp.name },
          node: null,
          who: ask.who,
          args: {
            phase: 'make',
            start: start && (before === null || plan.births.length > 0),
          } satisfies Partial<VappArgs>,
        });
    if (op !== null) change.at(kinds.op.key(op.id), null).put(kinds.op, op.id, op);
    patches = plan.patches;
    return {
      change,
      answer: () => ({ body: { ...said, op: op === null ? null : opView(view, op), vapp: shown(vapp.id) } }),
    };
  });
  let last: Op | null = null;
  for (const p of patches) {
    const { op } = await writes.patch({
      ...ask,
      params: { vm: p.vm },
      query: undefined,
      body: p.patch,
      ifMatch: null,
      idempotencyKey: null,
    });
    last = op;
  }
  const { body } = answer;
  return {
    body: {
      ...body,
      op: body.op ?? (last === null ? null : opView(view, last)),
      vapp: body.vapp === null ? null : shown(body.vapp.id),
    },
  };
}

/** The records of a vApp as it is to be, in one transaction. @param kept - null: it is new */
export function recordsOf(
  { view }: ApiDeps,
  plan: VappPlan,
  kept: Kept<Vapp> | null,
  secretKept: { readonly modRevision: bigint } | null,
): Change {
  const { vapp } = plan;
  const change = new Change().at(kinds.vapp.key(vapp.id), kept).put(kinds.vapp, vapp.id, vapp);
  if (kept === null) change.take(unique.name('vapp', vapp.name), vapp.id);
  if (plan.secrets !== null)
    change
      .at(kinds.vappSecret.key(vapp.id), secretKept)
      .put(kinds.vappSecret, vapp.id, { values: { ...plan.secrets } });
  for (const id of plan.networksGone) {
    const there = view.ledger.tables.network.get(id);
    if (there === undefined) continue;
    change
      .at(kinds.network.key(id), there)
      .del(kinds.network.key(id))
      .del(unique.name('network', there.value.name));
    if (there.value.vni !== undefined) change.del(unique.vni(there.value.vni));
  }
  for (const n of plan.networks)
    change
      .at(kinds.network.key(n.id), null)
      .put(kinds.network, n.id, n)
      .take(unique.name('network', n.name), n.id)
      .take(unique.vni(n.vni ?? 0), n.id);
  const cls = vapp.class === null ? undefined : view.ledger.tables.class.get(vapp.class);
  if (cls !== undefined) change.refersTo(kinds.class.key(cls.value.id), cls);
  for (const n of vapp.networks) {
    const there = view.ledger.tables.network.get(n.network);
    if (there !== undefined) change.refersTo(kinds.network.key(n.network), there);
  }
  return change;
}

/** @throws FlotillaError `ledger-full`, `name-taken` */
export async function roomForVapp(deps: ApiDeps, name: string): Promise<void> {
  if (deps.view.ledger.tables.vapp.size >= vappsMax)
    throw new FlotillaError('ledger-full', `The cluster has ${vappsMax} vApps; no more are taken`, {
      hint: 'Delete some that are no longer needed.',
    });
  await nameFree(deps, 'vapp', name);
}

export function contextOf(deps: ApiDeps, before: Vapp | null): Parameters<typeof planVapp>[4] {
  const { view } = deps;
  const t = view.ledger.tables;
  const vnis = new Set([...t.network.values()].flatMap((k) => k.value.vni ?? []));
  return {
    newId: () => deps.chance.uuid(),
    find: (kind, ref) => view.find(kind, ref),
    defaultPool: () => poolOf(view, undefined).id,
    network: (id) => t.network.get(id)?.value,
    usersOf: (network) =>
      [...t.vmSpec.values()]
        .filter((k) => k.value.nics.some((n) => n.network === network))
        .map((k) => k.value.name),
    spec: (vm) => t.vmSpec.get(vm)?.value,
    disks: (vm) => view.vmDisks(vm).map((k) => k.value),
    freeVni: () => {
      let n = vniFirst;
      while (vnis.has(n) && n < vniLast) n += 1;
      vnis.add(n);
      return n;
    },
    taken: (kind, name) => {
      const id = view.find(kind, name);
      return id !== null && before?.members.every((m) => m.vm !== id) !== false;
    },
  };
}

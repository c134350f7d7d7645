import {
  copyOf,
  namedCopy,
  propertiesOf,
  templateDocument,
  vmAsVapp,
  vmsOf,
} from '../../core/decide/vapp-copy.js';
import { FlotillaError } from '../../core/domain/error.js';
import { opFinished } from '../../core/domain/op.js';
import { parse } from '../../core/domain/schema.js';
import { templatesMax, type Template } from '../../core/domain/template.js';
import type { Vapp } from '../../core/domain/vapp.js';
import { snapshotsMax, type VmSnapshot } from '../../core/domain/vm-snapshot.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import { vappDocSchema, type TemplateView, type VappDoc } from '../../core/wire/rest.js';
import { Change, commit, fresh, idFromKey } from './commit.js';
import type { ApiDeps, Ask, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { nameFree } from './names.js';
import { newOp, opView } from './ops.js';
import { again, checkWhole, planCopy, sourceOf, wouldBe, type Begin, type Copied } from './vapp-copies.js';
import { shownVapp } from './vapps.js';
import { VmWrites } from './vm-write.js';

type Names = 'templateList' | 'templateGet' | 'templateCreate' | 'templateDeploy' | 'templateDelete';

/** The catalogue: what vApps are made of. */
export function templateHandlers(deps: ApiDeps): Some<Names> {
  const { view } = deps;
  const writes = new VmWrites(deps);
  /** Deployments go one after the other, so that each sees what the one before was promised. */
  let turn: Promise<unknown> = Promise.resolve();
  const shown = (id: string): { body: TemplateView } => {
    const template = view.ledger.tables.template.get(id)?.value;
    if (template === undefined) throw notFound('template', id);
    return { body: templateView(deps, template) };
  };
  return {
    async templateList() {
      view.freshness();
      const all = [...view.ledger.tables.template.values()].map((k) => templateView(deps, k.value));
      return { body: { items: all.sort((a, b) => (a.name < b.name ? -1 : 1)) } };
    },
    async templateGet({ params }) {
      return shown(await idOf(view, 'template', params.template));
    },
    templateCreate: (ask) => create(deps, ask, shown),
    templateDeploy(ask) {
      const mine = turn.then(() => deploy(deps, writes, ask));
      turn = mine.catch(() => undefined);
      return mine;
    },
    async templateDelete({ params }) {
      const id = await idOf(view, 'template', params.template);
      return commit(deps, `Template "${params.template}"`, async () => {
        await view.ledger.refresh('vapp', 'op', 'vmSnapshot');
        const kept = await fresh(deps, kinds.template, id);
        if (kept === null) throw notFound('template', params.template);
        const template = kept.value;
        checkUnused(deps, template);
        const change = new Change()
          .at(kinds.template.key(id), kept)
          .del(kinds.template.key(id))
          .del(unique.name('template', template.name));
        for (const { from } of template.begins) {
          const x = view.ledger.tables.vmSnapshot.get(from.snapshot);
          if (x !== undefined)
            change
              .at(kinds.vmSnapshot.key(from.snapshot), x)
              .put(kinds.vmSnapshot, from.snapshot, { ...x.value, state: 'deleting' });
        }
        return { change, answer: (): Reply<'templateDelete'> => ({ body: null }) };
      });
    },
  };
}

/** @throws FlotillaError `wrong-state`, `in-use`: it is being made, or something is being made of it */
function checkUnused({ view }: ApiDeps, template: Template): void {
  const open = openOf(view, template.id);
  if (open !== null)
    throw new FlotillaError('wrong-state', `The template "${template.name}" is being made`, {
      hint: `Wait for its end, or cancel it: flotilla op cancel ${open.id}.`,
    });
  const mine = new Set(template.begins.map((b) => b.from.snapshot));
  const user = [...view.ledger.tables.vapp.values()].find(({ value: v }) =>
    v.members.some((m) => m.make !== null && m.from !== undefined && mine.has(m.from.snapshot)),
  );
  if (user !== undefined)
    throw new FlotillaError(
      'in-use',
      `vApp "${user.value.name}" is being made of template "${template.name}"`,
      {
        hint: 'Wait until it is made, or cancel it.',
      },
    );
}

const openOf = (view: ApiDeps['view'], id: string) =>
  [...view.ledger.tables.op.values()]
    .map((k) => k.value)
    .find((o) => o.subject.id === id && o.kind === 'template.create' && !opFinished(o)) ?? null;

const documentOf = (t: Template): VappDoc => parse(vappDocSchema, t.document, `Template "${t.name}"`);

function templateView(deps: ApiDeps, t: Template): TemplateView {
  const { view } = deps;
  const { tables } = view.ledger;
  const { document: _, begins, ...rest } = t;
  const open = openOf(view, t.id);
  const doc = vappDocSchema.safeParse(t.document).data;
  const name = (kind: 'pool' | 'network', id: string): string => tables[kind].get(id)?.value.name ?? id;
  return {
    ...rest,
    members: [...vmsOf(doc ?? { members: {} })].map(([member, d]) => {
      const from = begins.find((b) => b.member === member)?.from;
      const x = from === undefined ? undefined : tables.vmSnapshot.get(from.snapshot)?.value;
      return {
        name: member,
        cpus: d.cpus ?? null,
        memoryMiB: d.memoryMiB ?? null,
        disks: (x?.disks ?? []).map((v) => ({
          name: v.name,
          pool: name('pool', v.pool),
          sizeBytes: v.sizeBytes,
          usedBytes: v.usedBytes,
        })),
        node: x?.node ?? null,
      };
    }),
    networks: Object.entries(doc?.networks ?? {}).map(([part, n]) =>
      'network' in n ? { name: name('network', n.network), isolated: false } : { name: part, isolated: true },
    ),
    properties: propertiesOf(doc ?? {}),
    eulas: doc?.eulas ?? [],
    unusable: doc === undefined ? 'its document cannot be read' : unusable(deps, t),
    op: open === null ? null : opView(view, open),
  };
}

/** Why nothing can be made of a template now, in words; empty: it can. */
function unusable({ view }: ApiDeps, t: Template): string {
  if (t.state === 'making') return 'it is being made';
  for (const { member, from } of t.begins) {
    const x = view.ledger.tables.vmSnapshot.get(from.snapshot)?.value;
    if (x?.state !== 'ready') return `the data of "${member}" are not there any more`;
    if (x.node !== null && !view.ledger.tables.node.has(x.node))
      return `the data of "${member}" were on ${x.node}, which is in the cluster no more`;
  }
  return '';
}

async function create(
  deps: ApiDeps,
  ask: Ask<'templateCreate'>,
  shown: (id: string) => { body: TemplateView },
): Promise<{ body: TemplateView }> {
  const { view, chance, clock } = deps;
  view.freshness();
  const { name, note, tags, properties } = ask.body;
  const id = idFromKey(chance, ask.who, 'templateCreate', ask.idempotencyKey);
  const opId = idFromKey(chance, ask.who, 'templateCreate op', ask.idempotencyKey);
  if (ask.idempotencyKey !== null && (await fresh(deps, kinds.template, id)) !== null) {
    await view.ledger.refresh('template', 'op');
    return shown(id);
  }
  const kind = ask.body.vapp === undefined ? 'vm' : 'vapp';
  const source = await idOf(view, kind, ask.body.vapp ?? ask.body.vm ?? '');
  return commit(deps, `Template "${name}"`, async () => {
    await view.ledger.refresh();
    if (view.ledger.tables.template.size >= templatesMax)
      throw new FlotillaError('ledger-full', `The cluster has ${templatesMax} templates already`, {
        hint: 'Delete some that are not needed any more.',
      });
    await nameFree(deps, 'template', name);
    const of = await sourceVapp(deps, kind, source);
    const { document, sources } = copyOf(of, sourceOf(deps), name);
    const begins: Template['begins'] = [];
    for (const [member, vm] of sources) {
      const { id: snapshot } = wouldBe(deps, vm);
      begins.push({ member, from: { vm, snapshot, linked: false, keep: true } });
    }
    if (begins.length === 0)
      throw new FlotillaError('wrong-state', `"${of.name}" has no disk to make a template of`, {
        hint: 'Write it as a file instead: flotilla vapp export.',
      });
    if (view.ledger.tables.vmSnapshot.size + begins.length > snapshotsMax)
      throw new FlotillaError('ledger-full', `The cluster would have more than ${snapshotsMax} snapshots`, {
        hint: 'Delete some that are not needed any more.',
      });
    const template: Template = {
      id,
      name,
      note,
      tags,
      of: { kind, name: of.name },
      document: templateDocument(document, name, properties),
      begins,
      state: 'making',
      createdMs: clock.wallMs(),
    };
    const op = newOp(deps, {
      id: opId,
      kind: 'template.create',
      subject: { kind: 'template', id, name },
      node: null,
      who: ask.who,
      args: {},
    });
    const change = new Change()
      .at(kinds.template.key(id), null)
      .put(kinds.template, id, template)
      .take(unique.name('template', name), id)
      .at(kinds.op.key(op.id), null)
      .put(kinds.op, op.id, op);
    return { change, answer: () => shown(id) };
  });
}

/** What a template is made of, as a vApp. @throws FlotillaError `not-found`, `wrong-state` */
async function sourceVapp(deps: ApiDeps, kind: 'vapp' | 'vm', id: string): Promise<Vapp> {
  const { tables } = deps.view.ledger;
  if (kind === 'vm') {
    const spec = tables.vmSpec.get(id)?.value;
    if (spec === undefined) throw notFound('vm', id);
    return vmAsVapp(spec, (n) => tables.network.get(n)?.value);
  }
  const kept = await fresh(deps, kinds.vapp, id);
  if (kept === null) throw notFound('vapp', id);
  checkWhole(deps, kept.value);
  return kept.value;
}

async function deploy(deps: ApiDeps, writes: VmWrites, ask: Ask<'templateDeploy'>): Promise<Copied> {
  const { view, chance } = deps;
  view.freshness();
  const { name, linked, values, start, dryRun, acceptEulas } = ask.body;
  const id = await idOf(view, 'template', ask.params.template);
  const opId = idFromKey(chance, ask.who, `templateDeploy ${id}`, ask.idempotencyKey);
  const shown = (vapp: string) => shownVapp(view, vapp);
  return commit<Copied>(deps, `vApp "${name}"`, async () => {
    await view.ledger.refresh();
    const before = await again(deps, opId, ask.idempotencyKey, shown);
    if (before !== null) return { change: null, answer: () => before };
    const kept = await fresh(deps, kinds.template, id);
    if (kept === null) throw notFound('template', ask.params.template);
    const template = kept.value;
    const why = unusable(deps, template);
    if (why !== '')
      throw new FlotillaError('wrong-state', `Nothing can be made of template "${template.name}": ${why}`, {
        hint: 'See: flotilla template show.',
      });
    const doc = documentOf(template);
    if ((doc.eulas?.length ?? 0) > 0 && !acceptEulas && !dryRun)
      throw new FlotillaError(
        'bad-input',
        `The template "${template.name}" comes with ${doc.eulas?.length} licences to accept`,
        { hint: 'Read them (flotilla template show) and say so: --accept-eulas.' },
      );
    const begins = new Map(
      template.begins.map(({ member, from }): [string, Begin] => [
        member,
        {
          from: { ...from, linked },
          snapshot: view.ledger.tables.vmSnapshot.get(from.snapshot)?.value as VmSnapshot,
        },
      ]),
    );
    const {
      change,
      id: made,
      body,
    } = await planCopy(deps, writes, {
      document: namedCopy(doc, name, template.of.kind === 'vm'),
      values,
      secrets: {},
      from: (member) => begins.get(member) ?? null,
      linked,
      kind: 'vapp.deploy',
      start,
      dryRun,
      opId,
      who: ask.who,
    });
    // Of its deletion at the same moment one is planned anew.
    change?.refersTo(kinds.template.key(id), kept);
    return { change, answer: () => ({ body: { ...body, vapp: change === null ? null : shown(made) } }) };
  });
}

import { classEffects, followClass } from '../../core/decide/service-class.js';
import { checkReach } from '../../core/decide/vm-ha-edit.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Op } from '../../core/domain/op.js';
import { classesMax, type ClassSettings, type ServiceClass } from '../../core/domain/service-class.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { ClassChanged, ClassView } from '../../core/wire/rest.js';
import type { View } from '../view.js';
import { Change, checkIfMatch, commit, etagOf, fresh, idFromKey } from './commit.js';
import type { ApiDeps, Ask, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { nameFree } from './names.js';
import { newOp, opView } from './ops.js';

type Names = 'classList' | 'classGet' | 'classCreate' | 'classPatch' | 'classDelete';

/** Levels of service that VMs and vApps ask for by name. */
export function classHandlers(deps: ApiDeps): Some<Names> {
  const { view } = deps;
  const shown = (id: string): { body: ClassView; etag: string } => {
    const cls = view.ledger.tables.class.get(id)?.value;
    if (cls === undefined) throw notFound('class', id);
    return { body: classView(view, cls), etag: etagOf(cls.generation) };
  };
  return {
    async classList() {
      view.freshness();
      const all = [...view.ledger.tables.class.values()].map((k) => classView(view, k.value));
      return { body: { items: all.sort((a, b) => (a.name < b.name ? -1 : 1)) } };
    },
    async classGet({ params }) {
      return shown(await idOf(view, 'class', params.class));
    },
    async classCreate({ body, who, idempotencyKey: key }) {
      const id = idFromKey(deps.chance, who, 'classCreate', key);
      if (key !== null && (await fresh(deps, kinds.class, id)) !== null) {
        await view.ledger.refresh('class');
        return shown(id);
      }
      view.freshness();
      return commit(deps, `Class "${body.name}"`, async () => {
        if (view.ledger.tables.class.size >= classesMax)
          throw new FlotillaError('ledger-full', `The cluster has ${classesMax} classes already`, {
            hint: 'Remove one that nothing is of: flotilla class list.',
          });
        await nameFree(deps, 'class', body.name);
        const cls: ServiceClass = { id, generation: 1, ...body };
        const change = new Change()
          .at(kinds.class.key(id), null)
          .put(kinds.class, id, cls)
          .take(unique.name('class', cls.name), id);
        return { change, answer: () => shown(id) };
      });
    },
    classPatch: (ask) => patch(deps, ask),
    async classDelete({ params, ifMatch }) {
      const id = await idOf(view, 'class', params.class);
      return commit(deps, `Class "${params.class}"`, async () => {
        await view.ledger.refresh('vmSpec', 'vapp');
        const kept = await fresh(deps, kinds.class, id);
        if (kept === null) throw notFound('class', params.class);
        checkIfMatch(ifMatch, kept.value.generation, `Class "${kept.value.name}"`);
        const { vms, vapps } = classView(view, kept.value);
        if (vms.length + vapps.length > 0) {
          const who = [...vapps.map((v) => `vApp "${v.name}"`), ...vms.map((v) => `VM "${v.name}"`)];
          const more = who.length > 5 ? ` and ${who.length - 5} more` : '';
          throw new FlotillaError(
            'in-use',
            `The class "${kept.value.name}" is that of ${who.slice(0, 5).join(', ')}${more}`,
            {
              hint: 'Give them another, or none: flotilla vm edit VM --class none.',
              details: { vms, vapps },
            },
          );
        }
        // Whoever takes the class writes its record again: of two at once one is planned anew.
        const change = new Change()
          .at(kinds.class.key(id), kept)
          .del(kinds.class.key(id))
          .del(unique.name('class', kept.value.name));
        return { change, answer: (): Reply<'classDelete'> => ({ body: null }) };
      });
    },
  };
}

const membersOf = (view: View, id: string): VmSpec[] =>
  [...view.ledger.tables.vmSpec.values()].map((k) => k.value).filter((v) => v.class?.id === id);

const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);

function classView(view: View, cls: ServiceClass): ClassView {
  return {
    ...cls,
    vms: membersOf(view, cls.id)
      .map((v) => ({
        vm: v.id,
        name: v.name,
        own: v.class?.own ?? [],
        follows: followClass(v, cls) === v,
      }))
      .sort(byName),
    vapps: [...view.ledger.tables.vapp.values()]
      .filter((k) => k.value.class === cls.id)
      .map(({ value: v }) => ({ vapp: v.id, name: v.name }))
      .sort(byName),
  };
}

function settingsAfter(
  before: ClassSettings,
  given: Ask<'classPatch'>['body']['settings'] = {},
): ClassSettings {
  const next: Record<string, unknown> = { ...before };
  for (const [k, v] of Object.entries(given)) {
    if (v === null) delete next[k];
    else if (v !== undefined) next[k] = v;
  }
  return next;
}

/** Members that would not reach their disks from a second node, which the class wants of them. */
function whoCannot(view: View, members: readonly VmSpec[], cls: ServiceClass): ClassChanged['cannot'] {
  return members.flatMap((spec) => {
    if (spec.ha.enabled || !followClass(spec, cls).ha.enabled) return [];
    const disks = view
      .vmDisks(spec.id)
      .map((k) => k.value)
      .filter((d) => d.state !== 'deleting');
    try {
      checkReach(`VM "${spec.name}"`, disks, (id) => {
        const pool = view.ledger.tables.pool.get(id)?.value;
        if (pool === undefined) throw notFound('pool', id);
        return pool;
      });
      return [];
    } catch (e) {
      if (!(e instanceof FlotillaError)) throw e;
      return [{ vm: spec.id, name: spec.name, text: e.message, hint: e.hint }];
    }
  });
}

async function patch(deps: ApiDeps, ask: Ask<'classPatch'>): Promise<Reply<'classPatch'>> {
  const { view } = deps;
  const { body } = ask;
  const id = await idOf(view, 'class', ask.params.class);
  return commit<Reply<'classPatch'>>(deps, `Class "${ask.params.class}"`, async () => {
    await view.ledger.refresh('vmSpec', 'disk', 'pool');
    const kept = await fresh(deps, kinds.class, id);
    if (kept === null) throw notFound('class', ask.params.class);
    const before = kept.value;
    checkIfMatch(ask.ifMatch, before.generation, `Class "${before.name}"`);
    const next: ServiceClass = {
      ...before,
      name: body.name ?? before.name,
      note: body.note ?? before.note,
      settings: settingsAfter(before.settings, body.settings),
    };
    const members = membersOf(view, id);
    const changes = members
      .map((spec) => ({
        vm: spec.id,
        name: spec.name,
        effects: classEffects(
          spec,
          view.vmDisks(spec.id).map((k) => k.value),
          next,
          view.ledger.tables.vmOwn.get(spec.id)?.value.state !== 'stopped',
        ),
      }))
      .filter((c) => c.effects.length > 0)
      .sort(byName);
    const cannot = whoCannot(view, members, next);
    const answer = (cls: ServiceClass, op: Op | null) => (): Reply<'classPatch'> => ({
      body: { class: classView(view, cls), changes, cannot, op: op === null ? null : opView(view, op) },
      etag: etagOf(cls.generation),
    });
    if (body.dryRun) return { change: null, answer: answer(next, null) };
    if (cannot.length > 0)
      throw new FlotillaError(
        'unsupported',
        `The class "${before.name}" cannot be changed so: ${cannot
          .slice(0, 3)
          .map((c) => c.text)
          .join('; ')}${cannot.length > 3 ? `; and ${cannot.length - 3} more` : ''}`,
        {
          hint: 'Give these VMs HA of their own first (flotilla vm edit VM --ha off), another class, or other disks.',
          details: { cannot },
        },
      );
    const lags = members.some((m) => followClass(m, next) !== m);
    const same = JSON.stringify(next) === JSON.stringify(before);
    if (same && !lags) return { change: null, answer: answer(before, null) };
    const cls = { ...next, generation: before.generation + 1 };
    const change = new Change().at(kinds.class.key(id), kept).put(kinds.class, id, cls);
    const [was, will] = [unique.name('class', before.name), unique.name('class', cls.name)];
    if (was !== will) {
      await nameFree(deps, 'class', cls.name);
      change.del(was).take(will, id);
    }
    const op = !lags
      ? null
      : newOp(deps, {
          id: deps.chance.uuid(),
          kind: 'class.update',
          subject: { kind: 'class', id, name: cls.name },
          node: null,
          who: ask.who,
          args: { generation: cls.generation },
        });
    if (op !== null) change.at(kinds.op.key(op.id), null).put(kinds.op, op.id, op);
    return { change, answer: answer(cls, op) };
  });
}

import { FlotillaError } from '../../core/domain/error.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { resumed, rollingArgs, rollingNodesMax, type RollingArgs } from '../../core/domain/rolling.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { inSlices, outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { checkAppliance, nodeWorkOf } from './node-update.js';
import { newOp, opView, repeated } from './ops.js';

/** The same work on nodes in turn: looked at beforehand, begun, paused, gone on with. Agents do it. */
export function rollingHandlers(deps: ApiDeps): Some<'rollingGet' | 'rollingBegin' | 'opPause' | 'opResume'> {
  const { view } = deps;
  return {
    async rollingGet({ query }) {
      view.freshness();
      const nodes = await chosen(view, query.nodes ?? [], query.tags ?? []);
      const specs = view.ledger.tables.vmSpec;
      const ids = new Map([...specs].map(([id, k]) => [k.value.name, id]));
      // Nothing has to move away from these, so they go first and alone.
      const idle = nodes.filter(isIdle).map((n) => ({ nodes: [n.id], swaps: [] }));
      const only = new Set(nodes.map((n) => n.id));
      const plan = await inSlices(outlookOf(view).rolling(query.atOnce, { only }));
      const groups = [...idle, ...plan.groups];
      const known = new Set([...groups.flatMap((g) => g.nodes), ...plan.blocked.map((b) => b.node)]);
      const blocked = [
        ...plan.blocked,
        ...nodes.flatMap((n) => (known.has(n.id) ? [] : [{ node: n.id, reason: 'it is not there now' }])),
      ];
      const moves = groups.reduce((a, g) => a + g.swaps.length, 0);
      const able = groups.reduce((a, g) => a + g.nodes.length, 0);
      return {
        body: {
          sentence:
            `${able} nodes could go down in ${groups.length} ${groups.length === 1 ? 'turn' : 'turns'}, with ${moves} moves of VMs` +
            (blocked.length === 0 ? '.' : `; ${blocked.length} cannot be emptied.`),
          groups: groups.map((g) => ({
            nodes: [...g.nodes],
            moves: g.swaps.map((m) => ({ vm: ids.get(m.vm) ?? m.vm, name: m.vm, to: m.to })),
          })),
          blocked,
        },
      };
    },
    async rollingBegin(ask) {
      const { work, image: ref, atOnce, restart, bringBack } = ask.body;
      const nodes = await chosen(view, ask.body.nodes, ask.body.tags);
      const imageId = ref === undefined ? null : await idOf(view, 'image', ref);
      const key = ask.idempotencyKey;
      const opId = idFromKey(deps.chance, ask.who, 'rollingBegin', key);
      const mark = requestMark(ask);
      const op = await commit(deps, 'The rolling work', async () => {
        const before = key === null ? null : await repeated(deps, opId, mark);
        if (before !== null) return { change: null, answer: () => before };
        const image = imageId === null ? null : await fresh(deps, kinds.image, imageId);
        if (imageId !== null && image === null) throw notFound('image', ref ?? '');
        if (image !== null) checkAppliance(image.value);
        const args: RollingArgs = {
          ...{ work, atOnce, restart, bringBack, paused: false },
          image: image === null ? null : { id: image.value.id, name: image.value.name },
          nodes: nodes.map((n) => ({ node: n.id, state: 'waiting', text: '' })),
        };
        const change = new Change();
        if (image !== null) change.at(kinds.image.key(image.value.id), image);
        const made = await begin(deps, change, opId, ask.who, { ...args, request: mark });
        return { change, answer: () => made };
      });
      return { body: { op: opView(view, op) } };
    },
    async opPause({ params }) {
      const op = await commit(deps, `Operation ${params.op}`, async () => {
        const { kept, args } = await rolling(deps, params.op);
        if (opFinished(kept.value))
          throw new FlotillaError(
            'wrong-state',
            `Operation ${kept.value.kind} is ${kept.value.state} already`,
            {
              hint: 'What is finished cannot be paused.',
            },
          );
        const next: Op = { ...kept.value, args: { ...args, paused: true } };
        return {
          change: args.paused
            ? null
            : new Change().at(kinds.op.key(next.id), kept).put(kinds.op, next.id, next),
          answer: () => next,
        };
      });
      return { body: opView(view, op) };
    },
    async opResume({ params, who }) {
      const op = await commit(deps, `Operation ${params.op}`, async () => {
        const { kept, args } = await rolling(deps, params.op);
        if (!opFinished(kept.value)) {
          const next: Op = { ...kept.value, args: { ...args, paused: false } };
          return {
            change: args.paused
              ? new Change().at(kinds.op.key(next.id), kept).put(kinds.op, next.id, next)
              : null,
            answer: () => next,
          };
        }
        if (args.nodes.every((n) => n.state === 'done'))
          throw new FlotillaError('wrong-state', 'All of its nodes are done', { hint: 'Begin a new one.' });
        const change = new Change().at(kinds.op.key(kept.value.id), kept);
        await view.ledger.refresh('op');
        const open = (id: string): boolean => {
          const o = view.ledger.tables.op.get(id)?.value;
          return o !== undefined && !opFinished(o);
        };
        const { request: _, ...more } = resumed(args, open);
        const made = await begin(deps, change, deps.chance.uuid(), who, more, kept.value.id);
        return { change, answer: () => made };
      });
      return { body: opView(view, op) };
    },
  };
}

const isIdle = (n: NodeRecord): boolean => n.witness || n.desired === 'maintenance';

/**
 * The nodes that are to go, by name; without names and tags all but those that leave or sleep.
 *
 * @throws FlotillaError `not-found`, `bad-input`, `wrong-state`: one that is named sleeps
 */
async function chosen(
  view: View,
  names: readonly string[],
  tags: readonly string[],
): Promise<readonly NodeRecord[]> {
  const named = new Set(await Promise.all(names.map((n) => idOf(view, 'node', n))));
  const all = [...view.ledger.tables.node.values()]
    .map((k) => k.value)
    .filter((n) => n.desired !== 'leaving' && (n.asleep === undefined || named.has(n.id)));
  const nodes =
    names.length + tags.length === 0
      ? all
      : all.filter((n) => named.has(n.id) || (n.tags ?? []).some((t) => tags.includes(t)));
  if (nodes.length === 0 || nodes.length > rollingNodesMax)
    throw new FlotillaError('bad-input', `${nodes.length} nodes are meant`, {
      hint: `Name 1 to ${rollingNodesMax}, or a tag that some have.`,
    });
  const asleep = nodes.find((n) => n.asleep !== undefined);
  if (asleep !== undefined)
    throw new FlotillaError('wrong-state', `Node ${asleep.id} sleeps`, {
      hint: 'Wake it first, or leave it out.',
    });
  return nodes.sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** @throws FlotillaError `wrong-state`: there is other such work */
async function begin(
  deps: ApiDeps,
  change: Change,
  id: string,
  who: string,
  args: Record<string, unknown>,
  after: string | null = null,
): Promise<Op> {
  const { view } = deps;
  await view.ledger.refresh('op');
  const other = nodeWorkOf(view);
  const work = rollingArgs({ args });
  // What was left half-way by the operation that is gone on with is its own.
  if (other !== undefined && !(after !== null && work?.nodes.some((n) => n.op === other.id) === true))
    throw new FlotillaError('wrong-state', `${other.kind} of ${other.subject.name} is under way`, {
      hint: `There is one at a time: flotilla op watch ${other.id}, or flotilla op cancel ${other.id}.`,
      details: { op: other.id },
    });
  const { meta } = view.ledger;
  const made = newOp(deps, {
    id,
    kind: 'cluster.rolling',
    subject: { kind: 'cluster', id: meta?.id ?? id, name: meta?.name ?? 'cluster' },
    node: null,
    who,
    args,
  });
  change.at(kinds.op.key(id), null).put(kinds.op, id, made);
  return made;
}

async function rolling(
  deps: ApiDeps,
  id: string,
): Promise<{
  kept: NonNullable<Awaited<ReturnType<typeof fresh<typeof kinds.op.schema>>>>;
  args: RollingArgs;
}> {
  const kept = await fresh(deps, kinds.op, id);
  if (kept === null)
    throw new FlotillaError('not-found', `There is no operation ${id}`, { hint: 'See: flotilla op list.' });
  const args = kept.value.kind === 'cluster.rolling' ? rollingArgs(kept.value) : null;
  if (args === null)
    throw new FlotillaError('unsupported', `Operation ${kept.value.kind} cannot be paused`, {
      hint: 'Only work on one node after the other can.',
    });
  return { kept, args };
}

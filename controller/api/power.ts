import { FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { powerId } from '../../core/domain/power.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import { Change, commit, fresh } from './commit.js';
import type { ApiDeps, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, opView } from './ops.js';

/** What agents noted longer ago than this is not shown as what is, ms: they write it anew every few minutes. */
const recordAgeMsMax = 15 * 60_000;

/** Nodes that sleep, and those that could. */
export function powerHandlers(deps: ApiDeps): Some<'powerGet' | 'nodeSleep' | 'nodeWake'> {
  const { view, clock } = deps;
  return {
    async powerGet() {
      view.freshness();
      const mode = view.ledger.policy.plan.power;
      const record = view.ledger.tables.power.get(powerId)?.value;
      const fresh = mode !== 'off' && record !== undefined && clock.wallMs() - record.atMs < recordAgeMsMax;
      const asleep = [...view.ledger.tables.node.values()].flatMap(({ value: n }) =>
        n.asleep === undefined ? [] : [{ node: n.id, sinceMs: n.asleep.sinceMs, by: n.asleep.by }],
      );
      const idle = mode === 'off' ? 'Nothing is looked for.' : 'No node has looked for it yet.';
      return {
        body: {
          mode,
          sentence: fresh ? `${record.sentence.charAt(0).toUpperCase()}${record.sentence.slice(1)}.` : idle,
          by: fresh ? record.by : null,
          atMs: fresh ? record.atMs : null,
          next: fresh ? record.next : null,
          asleep: asleep.sort((a, b) => (a.node < b.node ? -1 : 1)),
          kept: fresh ? record.kept : [],
          past: [...(record?.past ?? [])].reverse(),
        },
      };
    },
    async nodeSleep({ params, who }) {
      const id = await idOf(view, 'node', params.node);
      return { body: { op: opView(view, await begin(deps, 'sleep', id, who)) } };
    },
    async nodeWake({ params, who }) {
      const id = await idOf(view, 'node', params.node);
      return { body: { op: opView(view, await begin(deps, 'wake', id, who)) } };
    },
  };
}

/** One change at a time: asked for twice it is one. @throws FlotillaError `wrong-state`, `in-use` */
async function begin(deps: ApiDeps, does: 'sleep' | 'wake', id: string, who: string, why = ''): Promise<Op> {
  const { view } = deps;
  const kind = `node.${does}` as const;
  return commit<Op>(deps, `Node ${id}`, async () => {
    const node = await fresh(deps, kinds.node, id);
    if (node === null) throw notFound('node', id);
    await view.ledger.refresh('op');
    const open = openPower(view);
    if (open?.kind === kind && open.subject.id === id) return { change: null, answer: () => open };
    if (open !== null)
      throw new FlotillaError('wrong-state', `${open.kind} of ${open.subject.id} is not finished`, {
        hint: `One node at a time: flotilla op watch ${open.id}.`,
      });
    if (does === 'wake' && node.value.asleep === undefined)
      throw new FlotillaError('wrong-state', `Node ${id} is not asleep`, {
        hint: 'A node that is down and not asleep is powered on by hand.',
      });
    if (does === 'sleep') await checkSleep(deps, id, node.value);
    const op = newOp(deps, {
      id: deps.chance.uuid(),
      kind,
      subject: { kind: 'node', id, name: id },
      node: null,
      who,
      args: { node: id, why },
    });
    const change = new Change()
      .at(kinds.node.key(id), node)
      .at(kinds.op.key(op.id), null)
      .put(kinds.op, op.id, op);
    return { change, answer: () => op };
  });
}

/** What no drain would change. @throws FlotillaError `wrong-state`, `in-use` */
async function checkSleep(
  deps: ApiDeps,
  id: string,
  node: { readonly asleep?: unknown; readonly witness: boolean; readonly voter: boolean },
): Promise<void> {
  const { view } = deps;
  const no = (message: string, hint: string): FlotillaError =>
    new FlotillaError('wrong-state', message, { hint });
  if (node.asleep !== undefined) throw no(`Node ${id} is asleep`, `Wake it: flotilla node wake ${id}.`);
  if (node.witness || node.voter)
    throw no(
      `Node ${id} votes in the ledger: it stays on`,
      'Choose a node that does not vote: flotilla node list.',
    );
  if ((await deps.ledger.get(kinds.bmc.key(id))) === null)
    throw no(
      `Node ${id} has no fencing device that could wake it`,
      `Set one: flotilla node bmc set ${id} --kind ipmi --address … --user … --password-file FILE.`,
    );
  const test = (await fresh(deps, kinds.bmcTest, id))?.value.result ?? null;
  if (test === null || test.power === null || test.machine === 'other')
    throw no(
      test === null
        ? `The fencing device of ${id} was not tried`
        : `The fencing device of ${id}: ${test.text}`,
      `Try it: flotilla node bmc test ${id}.`,
    );
  const keeps = outlookOf(view).keeps(id);
  if (keeps.length > 0)
    throw new FlotillaError('in-use', `Node ${id} stays on: it ${keeps.slice(0, 5).join('; it ')}`, {
      hint: 'Move that elsewhere first.',
    });
}

function openPower(view: View): Op | null {
  for (const { value: o } of view.ledger.tables.op.values())
    if ((o.kind === 'node.sleep' || o.kind === 'node.wake') && !opFinished(o)) return o;
  return null;
}

/**
 * What is refused for want of room wakes a node, where that is done by itself: the largest that sleeps.
 *
 * @returns the error, with what is done about it
 */
export async function wakeForRoom(deps: ApiDeps, error: unknown): Promise<unknown> {
  const { view } = deps;
  const room =
    error instanceof FlotillaError && (error.code === 'no-node-fits' || error.code === 'no-failover-room');
  if (!room || view.ledger.policy.plan.power !== 'automatic') return error;
  const [largest] = [...view.ledger.tables.node.values()]
    .flatMap(({ value: n }) => (n.asleep === undefined ? [] : [{ id: n.id, bytes: n.asleep.memoryBytes }]))
    .sort((a, b) => b.bytes - a.bytes || (a.id < b.id ? -1 : 1));
  if (largest === undefined) return error;
  const open = openPower(view);
  const op =
    open?.kind === 'node.wake'
      ? open
      : await begin(deps, 'wake', largest.id, 'saving power', error.message.slice(0, 300)).catch(() => null);
  if (op === null) return error;
  return new FlotillaError(error.code, error.message, {
    hint: `${op.subject.id} is being woken: ask again when it is awake (flotilla op watch ${op.id}). Else: ${error.hint}`,
    cause: error.cause,
    details: error.details,
  });
}

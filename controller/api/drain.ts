import {
  bareWithout,
  planDrain,
  twinsOn,
  type DrainLine,
  type DrainSubject,
  type TwinLine,
} from '../../core/decide/drain.js';
import { drainArgs, type DrainArgs } from '../../core/domain/drain.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { NodeDesired, NodeRecord } from '../../core/domain/node.js';
import { opFinished, type Op, type OpKind } from '../../core/domain/op.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { DrainAnswer } from '../../core/wire/rest.js';
import { outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, opView, repeated } from './ops.js';

/** Emptying nodes, and filling them again. */
export function drainHandlers(deps: ApiDeps): Some<'nodeDrainGet' | 'nodeDrain' | 'nodeActivate'> {
  const { view } = deps;
  return {
    async nodeDrainGet({ params }) {
      view.freshness();
      return { body: drainView(view, await idOf(view, 'node', params.node), deps.clock.wallMs()) };
    },
    async nodeDrain(ask) {
      const id = await idOf(view, 'node', ask.params.node);
      const op = await begin(deps, ask, id, 'node.drain', 'maintenance', (node) => {
        if (node.witness)
          throw new FlotillaError('wrong-state', `Node ${id} is a witness: it runs no VMs`, {
            hint: 'There is nothing to move.',
          });
        return { node: id, restart: ask.body.restart, leave: ask.body.leave, vms: [] };
      });
      return { body: { op: opView(view, op as Op) } };
    },
    async nodeActivate(ask) {
      const id = await idOf(view, 'node', ask.params.node);
      const op = await begin(deps, ask, id, 'node.return', 'active', () => {
        const vms = ask.body.bringBack ? movedFrom(view, id) : [];
        return vms.length === 0 ? null : { node: id, restart: false, leave: false, vms };
      });
      return { body: { op: op === null ? null : opView(view, op) } };
    },
  };
}

/** Sets what the node shall be, and begins the operation, in one transaction. The same one asked for twice is one. */
async function begin(
  deps: ApiDeps,
  ask: Ask<'nodeDrain'> | Ask<'nodeActivate'>,
  id: string,
  kind: OpKind,
  desired: NodeDesired,
  argsOf: (node: NodeRecord) => DrainArgs | null,
): Promise<Op | null> {
  const { view } = deps;
  const mark = requestMark(ask);
  const key = ask.idempotencyKey;
  const opId = idFromKey(deps.chance, ask.who, `${kind} ${id}`, key);
  const before = key === null ? null : await repeated(deps, opId, mark);
  if (before !== null) return before;
  return commit<Op | null>(deps, `Node ${id}`, async () => {
    const node = await fresh(deps, kinds.node, id);
    if (node === null) throw notFound('node', id);
    const open = openOf(view, id);
    if (open !== null && open.kind === kind) return { change: null, answer: () => open };
    if (open !== null)
      throw new FlotillaError('wrong-state', `${open.kind} of ${id} is not finished`, {
        hint: `Wait for its end, or cancel it: flotilla op cancel ${open.id}.`,
      });
    if (node.value.asleep !== undefined)
      throw new FlotillaError('wrong-state', `Node ${id} is asleep`, {
        hint: `Wake it: flotilla node wake ${id}.`,
      });
    const args = argsOf(node.value);
    const change = new Change().at(kinds.node.key(id), node).put(kinds.node, id, { ...node.value, desired });
    if (args === null) return { change, answer: () => null };
    const op = newOp(deps, {
      id: opId,
      kind,
      subject: { kind: 'node', id, name: id },
      node: null,
      who: ask.who,
      args: { ...args, request: mark },
    });
    change.at(kinds.op.key(opId), null).put(kinds.op, opId, op);
    return { change, answer: () => op };
  });
}

const ofNode = (o: Op, node: string): boolean =>
  (o.kind === 'node.drain' || o.kind === 'node.return') && o.subject.id === node;

function openOf(view: View, node: string): Op | null {
  for (const { value: o } of view.ledger.tables.op.values()) if (ofNode(o, node) && !opFinished(o)) return o;
  return null;
}

/** VMs that the last drain took from a node, and that are where it took them. */
function movedFrom(view: View, node: string): DrainArgs['vms'] {
  const last = [...view.ledger.tables.op.values()]
    .map((k) => k.value)
    .filter((o) => o.kind === 'node.drain' && o.subject.id === node)
    .sort((a, b) => b.createdMs - a.createdMs)[0];
  const args = last === undefined ? null : drainArgs(last);
  return (args?.vms ?? []).flatMap((x) => {
    const owner = view.ledger.tables.vmOwn.get(x.vm)?.value.owner;
    return x.state === 'moved' && owner === x.to
      ? [{ vm: x.vm, state: 'waiting' as const, tries: 0, restart: false, text: '' }]
      : [];
  });
}

/** Every VM; what it does is not looked at. */
const subjectsOf = (view: View): DrainSubject[] =>
  [...view.ledger.tables.vmOwn].flatMap(([id, { value: own }]) => {
    const spec = view.ledger.tables.vmSpec.get(id)?.value;
    return spec === undefined ? [] : [{ spec, own, phase: 'unknown' as const }];
  });

function drainView(view: View, node: string, nowMs: number): DrainAnswer {
  const outlook = outlookOf(view, { emptied: node });
  const t = view.ledger.tables;
  const subjects = subjectsOf(view);
  const mine = subjects.filter((s) => s.own.owner === node);
  const lines = planDrain(
    outlook,
    mine.map((s) => ({ ...s, phase: view.vm(s.spec.id)?.phase ?? 'unknown' })),
    null,
  );
  const twins = twinsOn(outlook, node, subjects);
  const bare = bareWithout(outlook, node);
  const images = [...t.image.values()].filter((i) => i.value.node === node).map((i) => i.value.name);
  const op = openOf(view, node);
  const args = op === null ? null : drainArgs(op);
  const name = (id: string): string => t.vmSpec.get(id)?.value.name ?? id;
  return {
    node,
    canGo: lines.every(
      (l) =>
        l.how === 'migrate' || l.how === 'switch' || l.how === 'relocate' || (l.how === 'stays' && !l.runs),
    ),
    sentence: sentence(node, lines, { bare, images, twins }),
    vms: lines.map(({ runs: _, ...l }) => l),
    bare,
    twins,
    images,
    op: op === null ? null : opView(view, op),
    moves: (args?.vms ?? []).map((x) => ({ ...x, name: name(x.vm) })),
    etaS: op === null || args === null ? null : etaS(view, op, args, nowMs),
  };
}

function sentence(
  node: string,
  lines: readonly DrainLine[],
  {
    bare,
    images,
    twins,
  }: {
    readonly bare: readonly string[];
    readonly images: readonly string[];
    readonly twins: readonly TwinLine[];
  },
): string {
  const count = (how: DrainLine['how'], runs: boolean | null = null): number =>
    lines.filter((l) => l.how === how && (runs ?? l.runs) === l.runs).length;
  const vms = (n: number): string => `${n} ${n === 1 ? 'VM' : 'VMs'}`;
  const are = (n: number, one: string, many: string, then: string): string[] =>
    n > 0 ? [`${vms(n)} ${n === 1 ? one : many} ${then}`] : [];
  const parts = [
    ...are(count('migrate'), 'would', 'would', 'move while running'),
    ...are(count('switch'), 'is', 'are', 'in lockstep and would go on with the twin'),
    ...are(count('relocate'), 'is', 'are', 'off and would get another owner'),
    ...are(count('restart'), 'would', 'would', 'have to be restarted elsewhere'),
    ...are(count('stays', true), 'runs', 'run', 'and cannot leave it'),
    ...are(count('stays', false), 'is', 'are', 'off and cannot leave it'),
    ...are(count('wait'), 'cannot', 'cannot', 'be told about now'),
    ...are(twins.length, 'of another node would', 'of other nodes would', 'lose the twin here'),
    ...are(bare.length, 'would', 'would', 'have no standby'),
    ...(images.length > 0 ? [`it has the only file of ${images.length} images`] : []),
  ];
  if (lines.length === 0) parts.unshift('it owns no VM');
  const head = lines.some((l) => l.runs && (l.how === 'stays' || l.how === 'restart' || l.how === 'wait'))
    ? `Node ${node} cannot go as it is`
    : `Node ${node} can go`;
  return `${head}: ${parts.join('; ')}.`;
}

/** By the memory that has gone since it began. */
function etaS(view: View, op: Op, args: DrainArgs, nowMs: number): number | null {
  const memory = (state: (s: string) => boolean): number =>
    args.vms
      .filter((x) => state(x.state))
      .reduce((sum, x) => sum + (view.ledger.tables.vmSpec.get(x.vm)?.value.memoryMiB ?? 0), 0);
  const gone = memory((s) => s === 'moved');
  const left = memory((s) => s !== 'moved' && s !== 'stays');
  if (left === 0) return 0;
  return gone === 0 ? null : Math.round(((nowMs - op.createdMs) / 1000) * (left / gone));
}

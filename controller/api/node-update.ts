import { FlotillaError } from '../../core/domain/error.js';
import type { Image } from '../../core/domain/image.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { View } from '../view.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, opView, repeated } from './ops.js';

/** Restarts of a node, and updates of its appliance: the wish for one. The node's agent does it. */
export function nodeUpdateHandlers(deps: ApiDeps): Some<'nodeUpdate' | 'nodeReboot'> {
  const { view } = deps;
  return {
    async nodeUpdate(ask) {
      const image = await idOf(view, 'image', ask.body.image);
      return { body: { op: opView(view, await begin(deps, ask, { id: image, ref: ask.body.image })) } };
    },
    async nodeReboot(ask) {
      return { body: { op: opView(view, await begin(deps, ask, null)) } };
    },
  };
}

async function begin(
  deps: ApiDeps,
  ask: Ask<'nodeUpdate'> | Ask<'nodeReboot'>,
  of: { readonly id: string; readonly ref: string } | null,
): Promise<Op> {
  const { view } = deps;
  const node = await idOf(view, 'node', ask.params.node);
  const kind = of === null ? 'node.reboot' : 'node.update';
  const key = ask.idempotencyKey;
  const opId = idFromKey(deps.chance, ask.who, `${kind} ${node}`, key);
  const mark = requestMark(ask);
  return commit(deps, `Node ${node}`, async () => {
    const before = key === null ? null : await repeated(deps, opId, mark);
    if (before !== null) return { change: null, answer: () => before };
    const record = await fresh(deps, kinds.node, node);
    if (record === null) throw notFound('node', node);
    const image = of === null ? null : await fresh(deps, kinds.image, of.id);
    if (of !== null && image === null) throw notFound('image', of.ref);
    if (image !== null) checkAppliance(image.value);
    await view.ledger.refresh('op', 'vmOwn');
    const other = nodeWorkOf(view);
    if (other !== undefined) {
      throw new FlotillaError('wrong-state', `${other.kind} of ${other.subject.name} is under way`, {
        hint: `One node at a time: flotilla op watch ${other.id}`,
        details: { op: other.id },
      });
    }
    const running = runningOn(view, node);
    if (running.length > 0) {
      throw new FlotillaError('in-use', `${running.length} VMs run on ${node}, which must restart`, {
        hint: `Move them away or stop them first: flotilla node drain ${node}.`,
        details: { vms: running.slice(0, 32) },
      });
    }
    const made = newOp(deps, {
      id: opId,
      kind,
      subject:
        image === null
          ? { kind: 'node', id: node, name: node }
          : { kind: 'image', id: image.value.id, name: image.value.name },
      node,
      who: ask.who,
      args: { request: mark },
    });
    const change = new Change().at(kinds.node.key(node), record).at(kinds.op.key(opId), null);
    if (image !== null) change.at(kinds.image.key(image.value.id), image);
    return { change: change.put(kinds.op, opId, made), answer: () => made };
  });
}

/** @throws FlotillaError `image-refused` */
export function checkAppliance(image: Image): void {
  if (image.state === 'ready' && image.format === 'iso') return;
  throw new FlotillaError('image-refused', `Image "${image.name}" is no image of the appliance`, {
    hint: 'Import build/image/flotilla.iso, and wait until it is ready.',
  });
}

/** Work that takes nodes away, and is not finished: there is one at a time. */
export function nodeWorkOf(view: View): Op | undefined {
  return [...view.ledger.tables.op.values()]
    .map((o) => o.value)
    .find((o) => ['node.update', 'node.reboot', 'cluster.rolling'].includes(o.kind) && !opFinished(o));
}

/** The agent counts again before it restarts. */
function runningOn(view: View, node: string): string[] {
  return [...view.ledger.tables.vmOwn]
    .filter(([id, o]) => o.value.owner === node && view.vm(id)?.phase === 'running')
    .map(([id]) => id);
}

import { FlotillaError } from '../../core/domain/error.js';
import { opFinished } from '../../core/domain/op.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { newOp, opView, repeated } from './ops.js';

/** Updates of a node's appliance: the wish for one. The node's agent does it. */
export function nodeUpdateHandlers(deps: ApiDeps): Some<'nodeUpdate'> {
  const { view } = deps;
  return {
    async nodeUpdate(ask) {
      const node = await idOf(view, 'node', ask.params.node);
      const imageId = await idOf(view, 'image', ask.body.image);
      const key = ask.idempotencyKey;
      const opId = key === null ? deps.chance.uuid() : idFromKey(ask.who, `nodeUpdate ${node}`, key);
      const mark = requestMark(ask);
      const op = await commit(deps, `The update of node ${node}`, async () => {
        const before = key === null ? null : await repeated(deps, opId, mark);
        if (before !== null) return { change: null, answer: () => before };
        const record = await fresh(deps, kinds.node, node);
        if (record === null) throw notFound('node', node);
        const image = await fresh(deps, kinds.image, imageId);
        if (image === null) throw notFound('image', ask.body.image);
        if (image.value.state !== 'ready' || image.value.format !== 'iso') {
          throw new FlotillaError(
            'image-refused',
            `Image "${image.value.name}" is no image of the appliance`,
            {
              hint: 'Import build/image/flotilla.iso, and wait until it is ready.',
            },
          );
        }
        await view.ledger.refresh('op', 'vmOwn');
        const other = [...view.ledger.tables.op.values()].find(
          (o) => o.value.kind === 'node.update' && !opFinished(o.value),
        );
        if (other !== undefined) {
          throw new FlotillaError('wrong-state', `Node ${other.value.node ?? ''} is being updated just now`, {
            hint: `One at a time: flotilla op watch ${other.value.id}`,
            details: { op: other.value.id },
          });
        }
        const running = runningOn(node);
        if (running.length > 0) {
          throw new FlotillaError('in-use', `${running.length} VMs run on ${node}, which must restart`, {
            hint: `Move them away or stop them first: flotilla node drain ${node}.`,
            details: { vms: running.slice(0, 32) },
          });
        }
        const made = newOp(deps, {
          id: opId,
          kind: 'node.update',
          subject: { kind: 'image', id: imageId, name: image.value.name },
          node,
          who: ask.who,
          args: { request: mark },
        });
        const change = new Change()
          .at(kinds.node.key(node), record)
          .at(kinds.image.key(imageId), image)
          .at(kinds.op.key(opId), null)
          .put(kinds.op, opId, made);
        return { change, answer: () => made };
      });
      return { body: { op: opView(view, op) } };
    },
  };

  /** The agent counts again before it restarts. */
  function runningOn(node: string): string[] {
    return [...view.ledger.tables.vmOwn]
      .filter(([id, o]) => o.value.owner === node && view.vm(id)?.phase === 'running')
      .map(([id]) => id);
  }
}

import { FlotillaError } from '../../core/domain/error.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { ClusterView } from '../../core/wire/rest.js';
import { waitsForFailover } from '../ha-view.js';
import { summary } from '../summary.js';
import { contentMark } from '../tables.js';
import type { View } from '../view.js';
import { Change, checkIfMatch, commit, etagOf, fresh } from './commit.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { page } from './page.js';

/** The cluster as it is now. @throws FlotillaError `ledger-unavailable` before the first reading */
export function clusterView(view: View, version: string): ClusterView {
  const freshness = view.freshness();
  const vms = view.list('vm').map((c) => c.view);
  return summary({
    meta: view.ledger.meta,
    freshness,
    policy: view.ledger.policy,
    waiting: new Set(vms.filter((v) => waitsForFailover(view, v)).map((v) => v.id)),
    nodes: view.list('node').map((c) => c.view),
    vms,
    pools: view.list('pool').map((c) => c.view),
    ops: view.list('op').map((c) => c.view),
    images: view.ledger.tables.image.size,
    unreadable: view.ledger.unreadable,
    refused: view.refused(),
    version,
  });
}

export function clusterHandlers(deps: ApiDeps): Some<'clusterGet' | 'nodeList' | 'nodeGet' | 'nodePatch'> {
  const { view } = deps;
  const node = (id: string): Reply<'nodeGet'> => {
    const cell = view.cell('node', id);
    if (cell === undefined) throw notFound('node', id);
    return { json: cell.json, etag: etagOf(cell.view.revision) };
  };
  return {
    async clusterGet() {
      return { body: clusterView(view, deps.version) };
    },
    async nodeList({ query }) {
      return page(view, view.list('node'), query);
    },
    async nodeGet({ params }) {
      return node(await idOf(view, 'node', params.node));
    },
    async nodePatch({ params, body, ifMatch }) {
      const id = await idOf(view, 'node', params.node);
      return commit(deps, `Node ${id}`, async () => {
        const kept = await fresh(deps, kinds.node, id);
        if (kept === null) throw notFound('node', id);
        checkIfMatch(ifMatch, contentMark(kept), `Node ${id}`);
        const next = {
          ...kept.value,
          rack: body.rack === undefined ? kept.value.rack : body.rack,
          desired: body.desired ?? kept.value.desired,
        };
        if (next.desired === 'leaving' && ownsVms(view, id)) {
          throw new FlotillaError('in-use', `Node ${id} owns VMs and cannot leave`, {
            hint: `Delete its VMs first, or set it to maintenance: flotilla vm list --node ${id}.`,
          });
        }
        const change = new Change().at(kinds.node.key(id), kept).put(kinds.node, id, next);
        return { change, answer: () => node(id) };
      });
    },
  };
}

function ownsVms(view: View, node: string): boolean {
  for (const { value } of view.ledger.tables.vmOwn.values()) if (value.owner === node) return true;
  return false;
}

import { FlotillaError } from '../../core/domain/error.js';
import { historySchema, mergedHistory, type History, type HistorySpan } from '../../core/domain/history.js';
import { isHeard } from '../../core/domain/node.js';
import { parse } from '../../core/domain/schema.js';
import type { HistoryView } from '../../core/wire/rest.js';
import type { ApiDeps, Some } from './context.js';
import { idOf } from './lookup.js';

/** Figures over time, as the nodes kept them. */
export function historyHandlers(deps: ApiDeps): Some<'nodeHistory' | 'vmHistory'> {
  const { view } = deps;
  return {
    async nodeHistory({ params, query, signal }) {
      const id = await idOf(view, 'node', params.node);
      return { body: await gathered(deps, [id], 'node', query.span, signal) };
    },
    async vmHistory({ params, query, signal }) {
      const id = await idOf(view, 'vm', params.vm);
      const owner = view.ledger.tables.vmOwn.get(id)?.value.owner;
      // Where it was before, its past is. The owner's word counts last, where two speak of the same time.
      const nodes = [...view.ledger.tables.node.values()]
        .filter(({ value: n }) => !n.witness)
        .map(({ value: n }) => n.id)
        .sort((a, b) => Number(a === owner) - Number(b === owner) || (a < b ? -1 : 1));
      return { body: await gathered(deps, nodes, id, query.span, signal) };
    },
  };
}

async function gathered(
  deps: ApiDeps,
  nodes: readonly string[],
  subject: string,
  span: HistorySpan,
  signal: AbortSignal,
): Promise<HistoryView> {
  const silent: string[] = [];
  const all = await Promise.all(
    nodes.map(async (id): Promise<History | null> => {
      const address = deps.view.ledger.tables.node.get(id)?.value.addresses[0];
      try {
        if (address === undefined || !isHeard(deps.view.presenceOf(id)))
          throw new FlotillaError('node-unreachable', `Node ${id} is silent`, { hint: '' });
        const path = `/v1/history/${subject}?span=${span}`;
        return parse(historySchema, await deps.ask.get({ id, address }, path, signal), `Node ${id}'s answer`);
      } catch {
        // What the others kept is worth showing all the same.
        silent.push(id);
        return null;
      }
    }),
  );
  return {
    ...mergedHistory(
      span,
      all.filter((h) => h !== null),
    ),
    silent: silent.sort(),
  };
}

import { FlotillaError } from '../../core/domain/error.js';
import { poolHasNode, type Pool } from '../../core/domain/pool.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import { contentMark } from '../tables.js';
import { Change, checkIfMatch, commit, etagOf, fresh, idFromKey } from './commit.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { nameFree } from './names.js';
import { page } from './page.js';

/** Pools in a cluster, at most. */
const poolsMax = 64;

type Names = 'poolList' | 'poolGet' | 'poolCreate' | 'poolPatch' | 'poolDelete';

export function poolHandlers(deps: ApiDeps): Some<Names> {
  const { view } = deps;
  const shown = (id: string): Reply<'poolGet'> => {
    const cell = view.cell('pool', id);
    if (cell === undefined) throw notFound('pool', id);
    return { json: cell.json, etag: etagOf(cell.view.revision) };
  };
  const knowNodes = (nodes: readonly string[] | null): void => {
    for (const n of nodes ?? []) if (view.find('node', n) === null) throw notFound('node', n);
  };
  return {
    async poolList({ query }) {
      return page(view, view.list('pool'), query);
    },
    async poolGet({ params }) {
      return shown(await idOf(view, 'pool', params.pool));
    },
    async poolCreate({ body, who, idempotencyKey: key }) {
      const id = key === null ? deps.chance.uuid() : idFromKey(who, 'poolCreate', key);
      if (key !== null && (await fresh(deps, kinds.pool, id)) !== null) return shown(id);
      view.freshness();
      return commit(deps, `Pool "${body.name}"`, async () => {
        if (view.ledger.tables.pool.size >= poolsMax) {
          throw new FlotillaError('ledger-full', `The cluster has ${poolsMax} pools already`, {
            hint: 'Delete one that is empty.',
          });
        }
        await nameFree(deps, 'pool', body.name);
        knowNodes(body.nodes);
        for (const { value: p } of view.ledger.tables.pool.values()) {
          if (p.path === body.path && sharesNode(p, body.nodes)) {
            throw new FlotillaError('in-use', `The path ${body.path} is used by the pool "${p.name}"`, {
              hint: 'Choose another directory, or other nodes.',
            });
          }
        }
        const pool: Pool = { id, ...body };
        const change = new Change()
          .at(kinds.pool.key(id), null)
          .put(kinds.pool, id, pool)
          .take(unique.name('pool', pool.name), id);
        return { change, answer: () => shown(id) };
      });
    },
    async poolPatch({ params, body, ifMatch }) {
      const id = await idOf(view, 'pool', params.pool);
      return commit(deps, `Pool "${params.pool}"`, async () => {
        const kept = await fresh(deps, kinds.pool, id);
        if (kept === null) throw notFound('pool', params.pool);
        await view.ledger.refresh('disk', 'image');
        checkIfMatch(ifMatch, contentMark(kept), `Pool "${kept.value.name}"`);
        const next: Pool = {
          ...kept.value,
          name: body.name ?? kept.value.name,
          nodes: body.nodes === undefined ? kept.value.nodes : body.nodes,
          reservePct: body.reservePct ?? kept.value.reservePct,
        };
        knowNodes(next.nodes);
        const stranded = contents(id).find((c) => c.node !== null && !poolHasNode(next, c.node));
        if (stranded !== undefined) {
          throw new FlotillaError(
            'in-use',
            `The pool "${next.name}" cannot leave ${stranded.node}: "${stranded.name}" lies there`,
            { hint: 'Delete what lies there first.' },
          );
        }
        const change = new Change().at(kinds.pool.key(id), kept).put(kinds.pool, id, next);
        await rename(change, 'pool', kept.value.name, next.name, id);
        return { change, answer: () => shown(id) };
      });
    },
    async poolDelete({ params, ifMatch }) {
      const id = await idOf(view, 'pool', params.pool);
      return commit(deps, `Pool "${params.pool}"`, async () => {
        // First the pool, then what refers to it: whoever refers to it later changes its revision.
        const kept = await fresh(deps, kinds.pool, id);
        if (kept === null) throw notFound('pool', params.pool);
        checkIfMatch(ifMatch, contentMark(kept), `Pool "${kept.value.name}"`);
        await view.ledger.refresh('disk', 'image');
        const inside = contents(id);
        if (inside.length > 0) {
          const names = inside.slice(0, 3).map((c) => `"${c.name}"`);
          throw new FlotillaError(
            'in-use',
            `The pool "${kept.value.name}" holds ${inside.length} disks and images, e.g. ${names.join(', ')}`,
            { hint: 'Delete them first; a pool is only forgotten when it holds nothing.' },
          );
        }
        const change = new Change()
          .at(kinds.pool.key(id), kept)
          .del(kinds.pool.key(id))
          .del(unique.name('pool', kept.value.name));
        return { change, answer: (): Reply<'poolDelete'> => ({ body: null }) };
      });
    },
  };

  function contents(pool: string): { name: string; node: string | null }[] {
    const t = view.ledger.tables;
    return [...t.disk.values(), ...t.image.values()].map((k) => k.value).filter((v) => v.pool === pool);
  }

  async function rename(
    change: Change,
    of: 'pool',
    before: string,
    after: string,
    id: string,
  ): Promise<void> {
    if (unique.name(of, before) === unique.name(of, after)) return;
    await nameFree(deps, of, after);
    change.take(unique.name(of, after), id).del(unique.name(of, before));
  }
}

function sharesNode(p: Pool, nodes: readonly string[] | null): boolean {
  return p.nodes === null || nodes === null || nodes.some((n) => p.nodes?.includes(n));
}

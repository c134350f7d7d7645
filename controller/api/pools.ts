import { FlotillaError } from '../../core/domain/error.js';
import { groupPath, poolHasNode, type Pool, type PoolDrive } from '../../core/domain/pool.js';
import type { VmSnapshot } from '../../core/domain/vm-snapshot.js';
import type { PoolCreate } from '../../core/wire/rest.js';
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
      const id = idFromKey(deps.chance, who, 'poolCreate', key);
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
        const pool = newPool(id, body);
        checkDrives(pool, pool.drives ?? []);
        for (const { value: p } of view.ledger.tables.pool.values()) {
          if (p.path === pool.path && sharesNode(p, pool.nodes)) {
            throw new FlotillaError('in-use', `The path ${pool.path} is used by the pool "${p.name}"`, {
              hint: 'Choose another directory, or other nodes.',
            });
          }
        }
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
        await view.ledger.refresh('disk', 'image', 'vmSnapshot');
        checkIfMatch(ifMatch, contentMark(kept), `Pool "${kept.value.name}"`);
        const next: Pool = {
          ...kept.value,
          name: body.name ?? kept.value.name,
          nodes: body.nodes === undefined ? kept.value.nodes : body.nodes,
          reservePct: body.reservePct ?? kept.value.reservePct,
        };
        if (kept.value.kind === 'thin' && body.nodes !== undefined)
          throw badInput(
            `Pool "${kept.value.name}" is on the nodes of its drives`,
            'Add drives of another node.',
          );
        if (body.addDrives !== undefined) {
          checkDrives(next, body.addDrives);
          next.drives = [...(next.drives ?? []), ...body.addDrives];
          next.nodes = nodesOf(next.drives);
        }
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
        await view.ledger.refresh('disk', 'image', 'vmSnapshot');
        const inside = contents(id);
        if (inside.length > 0) {
          const names = inside.slice(0, 3).map((c) => `"${c.name}"`);
          throw new FlotillaError(
            'in-use',
            `The pool "${kept.value.name}" holds ${inside.length} disks, images and snapshots, e.g. ${names.join(', ')}`,
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

  /**
   * By what the nodes say of their drives now. The agent looks again at the drive itself before it takes it.
   */
  function checkDrives(pool: Pool, drives: readonly PoolDrive[]): void {
    const what = `Pool "${pool.name}"`;
    if (pool.kind !== 'thin') {
      if (drives.length > 0) throw badInput(`${what} is no thin pool`, 'Drives are for pools of kind thin.');
      return;
    }
    knowNodes(drives.map((d) => d.node));
    for (const [i, d] of drives.entries()) {
      const same = (o: PoolDrive): boolean => o.node === d.node && o.drive === d.drive;
      if (drives.findIndex(same) !== i)
        throw badInput(`${what}: drive ${d.drive} is named twice`, 'Name it once.');
      for (const { value: p } of view.ledger.tables.pool.values()) {
        if (p.drives?.some(same) !== true) continue;
        throw new FlotillaError('in-use', `The drive ${d.drive} of ${d.node} is in the pool "${p.name}"`, {
          hint: 'Choose another drive.',
        });
      }
      const heard = view.find('node', d.node);
      const seen = (heard === null ? undefined : view.cell('node', heard)?.view.state?.drives) ?? [];
      const drive = seen.find((x) => x.serial === d.drive);
      if (drive === undefined)
        throw new FlotillaError('not-found', `${d.node} has no drive with the serial number "${d.drive}"`, {
          hint: `See its drives: flotilla node show ${d.node}.`,
        });
      if (drive.use === 'empty' || (drive.use === 'data' && d.wipe)) continue;
      const why =
        drive.use === 'system' ? 'runs the node' : drive.use === 'pool' ? 'is in a pool' : drive.text;
      throw new FlotillaError(
        'drive-has-data',
        `The drive ${drive.device} (${d.drive}) of ${d.node}: ${why}`,
        {
          hint:
            drive.use === 'data'
              ? 'Choose an empty drive; or, if all on it may be lost, say so: --wipe (wipe: true).'
              : 'Choose another drive.',
        },
      );
    }
  }

  function contents(pool: string): { name: string; node: string | null }[] {
    const t = view.ledger.tables;
    const holds = (x: VmSnapshot): boolean => x.state !== 'failed' && x.disks.some((d) => d.pool === pool);
    return [
      ...[...t.disk.values(), ...t.image.values()].map((k) => k.value).filter((v) => v.pool === pool),
      ...[...t.vmSnapshot.values()].map((k) => k.value).filter(holds),
    ];
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

const badInput = (message: string, hint: string): FlotillaError =>
  new FlotillaError('bad-input', message, { hint });

const nodesOf = (drives: readonly PoolDrive[]): string[] => [...new Set(drives.map((d) => d.node))].sort();

/** @throws FlotillaError `bad-input`: a pool of directories without one, or a thin pool that is not only drives */
function newPool(id: string, body: PoolCreate): Pool {
  const { drives, path, ...rest } = body;
  const what = `Pool "${body.name}"`;
  if (body.kind === 'thin') {
    if (path !== undefined || body.nodes !== null)
      throw badInput(`${what}: a thin pool has drives, not a path or nodes`, 'Name its drives only.');
    if (drives === undefined || drives.length === 0)
      throw badInput(`${what}: a thin pool is made of drives`, 'Name at least one: --drive NODE:SERIAL.');
    return { ...rest, id, path: groupPath(id), nodes: nodesOf(drives), drives };
  }
  if (path === undefined) throw badInput(`${what} needs a path`, 'Name the directory on each node.');
  return { ...rest, id, path, ...(drives === undefined ? {} : { drives }) };
}

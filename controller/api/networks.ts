import { FlotillaError } from '../../core/domain/error.js';
import type { Network } from '../../core/domain/network.js';
import { ipv4InCidr } from '../../core/domain/ipv4.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import { contentMark } from '../tables.js';
import { Change, checkIfMatch, commit, etagOf, fresh, idFromKey } from './commit.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { nameFree } from './names.js';
import { page } from './page.js';

/** Networks in a cluster, at most. */
const networksMax = 256;

type Names = 'networkList' | 'networkGet' | 'networkCreate' | 'networkPatch' | 'networkDelete';

export function networkHandlers(deps: ApiDeps): Some<Names> {
  const { view } = deps;
  const shown = (id: string): Reply<'networkGet'> => {
    const cell = view.cell('network', id);
    if (cell === undefined) throw notFound('network', id);
    return { json: cell.json, etag: etagOf(cell.view.revision) };
  };
  /** VMs with a NIC there. */
  const users = (id: string): { name: string; addresses: string[] }[] => {
    const out: { name: string; addresses: string[] }[] = [];
    for (const { value: v } of view.ledger.tables.vmSpec.values()) {
      const nics = v.nics.filter((n) => n.network === id);
      if (nics.length > 0)
        out.push({ name: v.name, addresses: nics.flatMap((n) => (n.address === null ? [] : [n.address])) });
    }
    return out;
  };
  const bridgeFree = (bridge: string, self: string): void => {
    for (const { value: n } of view.ledger.tables.network.values()) {
      if (n.bridge === bridge && n.id !== self) {
        throw new FlotillaError('in-use', `The bridge ${bridge} belongs to the network "${n.name}"`, {
          hint: 'Choose another bridge name; two networks on one bridge would be one network.',
        });
      }
    }
  };
  return {
    async networkList({ query }) {
      return page(view, view.list('network'), query);
    },
    async networkGet({ params }) {
      return shown(await idOf(view, 'network', params.network));
    },
    async networkCreate({ body, who, idempotencyKey: key }) {
      const id = idFromKey(deps.chance, who, 'networkCreate', key);
      if (key !== null && (await fresh(deps, kinds.network, id)) !== null) return shown(id);
      view.freshness();
      return commit(deps, `Network "${body.name}"`, async () => {
        if (view.ledger.tables.network.size >= networksMax) {
          throw new FlotillaError('ledger-full', `The cluster has ${networksMax} networks already`, {
            hint: 'Delete one that no VM uses.',
          });
        }
        await nameFree(deps, 'network', body.name);
        bridgeFree(body.bridge, id);
        const network: Network = { id, ...body };
        const change = new Change()
          .at(kinds.network.key(id), null)
          .put(kinds.network, id, network)
          .take(unique.name('network', network.name), id);
        return { change, answer: () => shown(id) };
      });
    },
    async networkPatch({ params, body, ifMatch }) {
      const id = await idOf(view, 'network', params.network);
      return commit(deps, `Network "${params.network}"`, async () => {
        const kept = await fresh(deps, kinds.network, id);
        if (kept === null) throw notFound('network', params.network);
        const was = kept.value;
        checkIfMatch(ifMatch, contentMark(kept), `Network "${was.name}"`);
        await view.ledger.refresh('vmSpec');
        const given = Object.fromEntries(Object.entries(body).filter(([, v]) => v !== undefined));
        const next: Network = { ...was, ...given };
        bridgeFree(next.bridge, id);
        checkUsers(was, next, users(id));
        const change = new Change().at(kinds.network.key(id), kept).put(kinds.network, id, next);
        if (unique.name('network', was.name) !== unique.name('network', next.name)) {
          await nameFree(deps, 'network', next.name);
          change.take(unique.name('network', next.name), id).del(unique.name('network', was.name));
        }
        return { change, answer: () => shown(id) };
      });
    },
    async networkDelete({ params, ifMatch }) {
      const id = await idOf(view, 'network', params.network);
      return commit(deps, `Network "${params.network}"`, async () => {
        // First the network, then who uses it: whoever comes to use it later changes its revision.
        const kept = await fresh(deps, kinds.network, id);
        if (kept === null) throw notFound('network', params.network);
        checkIfMatch(ifMatch, contentMark(kept), `Network "${kept.value.name}"`);
        await view.ledger.refresh('vmSpec');
        const by = users(id);
        if (by.length > 0) throw inUse(kept.value, by, 'deleted');
        const change = new Change()
          .at(kinds.network.key(id), kept)
          .del(kinds.network.key(id))
          .del(unique.name('network', kept.value.name));
        return { change, answer: (): Reply<'networkDelete'> => ({ body: null }) };
      });
    },
  };
}

function inUse(n: Network, by: readonly { name: string }[], verb: string): FlotillaError {
  const names = by.slice(0, 3).map((v) => `"${v.name}"`);
  return new FlotillaError(
    'in-use',
    `The network "${n.name}" cannot be ${verb}: ${by.length} VMs use it, e.g. ${names.join(', ')}`,
    { hint: 'Remove their NICs from it first: flotilla vm edit --remove-nic.' },
  );
}

function checkUsers(was: Network, next: Network, by: readonly { name: string; addresses: string[] }[]): void {
  if (by.length === 0) return;
  if (was.bridge !== next.bridge) throw inUse(was, by, 'given another bridge');
  const { subnet } = next;
  const outside = by.filter((v) => v.addresses.some((a) => subnet === null || !ipv4InCidr(a, subnet)));
  if (outside.length > 0) throw inUse(was, outside, 'given a subnet without their addresses');
}

import { FlotillaError } from '../../core/domain/error.js';
import type { VmSnapshot } from '../../core/domain/vm-snapshot.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { admittedKey } from '../../core/wire/key-names.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { ClusterView } from '../../core/wire/rest.js';
import { recentShortfalls, waitsForFailover } from '../ha-view.js';
import { summary } from '../summary.js';
import { contentMark } from '../tables.js';
import type { View } from '../view.js';
import { revoked } from './certificates.js';
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
    shortfalls: recentShortfalls(view),
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

export function clusterHandlers(
  deps: ApiDeps,
): Some<'clusterGet' | 'nodeList' | 'nodeGet' | 'nodePatch' | 'nodeDelete'> {
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
        const addresses = withStorage(kept.value, body.storageAddress);
        const next = {
          ...kept.value,
          addresses,
          rack: body.rack === undefined ? kept.value.rack : body.rack,
          desired: body.desired ?? kept.value.desired,
          ...(body.tags === undefined ? {} : { tags: body.tags }),
        };
        if (next.asleep !== undefined && next.desired === 'active')
          throw new FlotillaError('wrong-state', `Node ${id} is asleep`, {
            hint: `Wake it: flotilla node wake ${id}.`,
          });
        if (next.desired === 'leaving' && ownsVms(view, id)) {
          throw new FlotillaError('in-use', `Node ${id} owns VMs and cannot leave`, {
            hint: `Move its VMs elsewhere, and let it leave then: flotilla node drain ${id} --leave.`,
          });
        }
        const change = new Change().at(kinds.node.key(id), kept).put(kinds.node, id, next);
        await moveAddresses(deps, change, kept.value, addresses);
        return { change, answer: () => node(id) };
      });
    },
    async nodeDelete({ params, ifMatch }) {
      const id = await idOf(view, 'node', params.node);
      return commit(deps, `Node ${id}`, async () => {
        const kept = await fresh(deps, kinds.node, id);
        if (kept === null) throw notFound('node', id);
        checkIfMatch(ifMatch, contentMark(kept), `Node ${id}`);
        await view.ledger.refresh();
        checkRemovable(view, kept.value);
        const change = new Change().at(kinds.node.key(id), kept).del(kinds.node.key(id));
        for (const a of kept.value.addresses) change.del(unique.nodeAddress(a));
        for (const k of [kinds.seen, kinds.fenced, kinds.bmc, kinds.bmcTest, kinds.live, kinds.trust])
          change.del(k.key(id));
        change.del(admittedKey(id));
        for (const c of view.ledger.tables.cert.values()) {
          if (c.value.node !== id || c.value.revoked !== null) continue;
          const { serial } = c.value;
          change
            .at(kinds.cert.key(serial), c)
            .put(kinds.cert, serial, revoked(c.value, 'removed', deps.clock.wallMs()));
        }
        return { change, answer: (): Reply<'nodeDelete'> => ({ body: null }) };
      });
    },
  };
}

/** Its addresses with another one on the storage network; undefined: the one that there is. @throws FlotillaError `bad-input` */
function withStorage(node: NodeRecord, storage: string | null | undefined): string[] {
  const [first = '', ...rest] = node.addresses;
  if (storage === undefined) return node.addresses;
  if (storage === null) return [first, ...rest.slice(1)];
  if (storage !== first && !/^(0|127|22[4-9]|23\d|24\d|25\d)\./.test(storage))
    return [first, storage, ...rest.slice(1)];
  throw new FlotillaError('bad-input', `${storage} cannot be the storage address of ${node.id}`, {
    hint: `Give an address of a second network, not ${first}, on which the nodes reach each other.`,
  });
}

/** Gives up addresses that a node has no more and takes the new ones. @throws FlotillaError `address-taken` */
async function moveAddresses(
  deps: ApiDeps,
  change: Change,
  node: NodeRecord,
  addresses: readonly string[],
): Promise<void> {
  for (const a of node.addresses) if (!addresses.includes(a)) change.del(unique.nodeAddress(a));
  for (const a of addresses) {
    if (node.addresses.includes(a)) continue;
    const holder = await deps.ledger.get(unique.nodeAddress(a));
    if (holder !== null)
      throw new FlotillaError('address-taken', `The address ${a} belongs to the node "${holder.value}"`, {
        hint: 'Each node has addresses of its own: flotilla node show tells them.',
      });
    change.take(unique.nodeAddress(a), node.id);
  }
}

/** @throws FlotillaError `wrong-state`, `in-use`: what must be done before */
function checkRemovable(view: View, node: NodeRecord): void {
  const { id } = node;
  if (ownsVms(view, id)) {
    throw new FlotillaError('in-use', `Node ${id} owns VMs and cannot be removed`, {
      hint: `Move them elsewhere first: flotilla node drain ${id} --leave.`,
    });
  }
  const { image, live, node: nodes, vmOwn, vmSnapshot } = view.ledger.tables;
  const copied = [...vmOwn].flatMap(([vm, k]) => (k.value.copies.some((c) => c.node === id) ? [vm] : []));
  // Of one that is gone the copies are replaced: their owners see that it is no more.
  if (live.has(id) && copied.length > 0) {
    const names = copied.slice(0, 3).map((vm) => `"${view.vm(vm)?.name ?? vm}"`);
    throw new FlotillaError(
      'in-use',
      `Node ${id} has the second copies of ${copied.length} VMs, e.g. ${names.join(', ')}`,
      { hint: 'Give each another standby first: flotilla vm standby VM.' },
    );
  }
  const images = [...image.values()].filter((i) => i.value.node === id).map((i) => `"${i.value.name}"`);
  // Of a node that is gone the files are gone too.
  if (live.has(id) && images.length > 0) {
    const names = images.slice(0, 3).join(', ');
    throw new FlotillaError(
      'in-use',
      `Node ${id} has the only file of ${images.length} images, e.g. ${names}`,
      {
        hint: 'Import them elsewhere and delete them here, or switch the node off first.',
      },
    );
  }
  const kept = [...vmSnapshot.values()].filter((x) => x.value.node === id && x.value.state !== 'deleting');
  if (live.has(id) && kept.length > 0) {
    const nameOf = ({ vm, template }: VmSnapshot): string | undefined =>
      template === undefined
        ? view.vm(vm)?.name
        : `template ${view.ledger.tables.template.get(template)?.value.name ?? ''}`;
    const names = [...new Set(kept.map((x) => `"${nameOf(x.value) ?? x.value.vm}"`))].slice(0, 3);
    throw new FlotillaError(
      'in-use',
      `Node ${id} has ${kept.length} snapshots, of ${names.join(', ')}, which would be lost`,
      {
        hint: 'Delete them, or make VMs of those that are needed (flotilla vm clone) and move these; or switch the node off first.',
      },
    );
  }
  if (nodes.size === 1) {
    throw new FlotillaError('wrong-state', `Node ${id} is the only one`, {
      hint: 'A cluster has at least one node: to end it, switch it off.',
    });
  }
  if (node.desired !== 'leaving') {
    throw new FlotillaError('wrong-state', `Node ${id} is not set to leave`, {
      hint: `Say so first: flotilla node remove ${id} does both.`,
    });
  }
  if (node.voter) {
    throw new FlotillaError('wrong-state', `Node ${id} still votes in the ledger`, {
      hint: 'Its seat is moved by itself, where another node can take it; then ask again.',
      details: { waitsFor: 'voter' },
    });
  }
}

/** @throws FlotillaError `unreadable-record`: nobody knows whose some VM is */
function ownsVms(view: View, node: string): boolean {
  for (const { value } of view.ledger.tables.vmOwn.values()) if (value.owner === node) return true;
  for (const [key, text] of view.ledger.unreadable)
    if (kinds.vmOwn.idOf(key) !== null)
      throw new FlotillaError('unreadable-record', `Node ${node} may own the VM of ${key}: ${text}`, {
        hint: 'A newer or a broken program wrote it. Mend it first: nothing is done with that VM until then.',
      });
  return false;
}

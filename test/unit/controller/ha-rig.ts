import type { NodeKeeper } from '../../../core/domain/node.js';
import type { VmProtection } from '../../../core/domain/vm.js';
import type { OpView, VmView } from '../../../core/wire/rest.js';
import type { WebFiles } from '../../../controller/web-files.js';
import { GiB, rig, type Rig } from './rig.js';

export const keeper = (o: Partial<NodeKeeper> = {}): NodeKeeper => ({
  mode: 'run',
  armable: true,
  why: '',
  watchdog: 'hardware',
  armed: 0,
  held: [],
  text: '',
  ...o,
});

/** The cluster of {@link rig} with a pool `shared` on every node, and a keeper on each. */
export async function haRig(
  web: WebFiles = new Map(),
  nodes: readonly string[] = ['n1', 'n2', 'n3'],
): Promise<Rig> {
  const r = await rig(nodes, web);
  const made = await r.call('POST', '/api/v1/pools', { name: 'shared', kind: 'shared', path: '/mnt/shared' });
  const { id } = made.body as { id: string };
  for (const n of r.radio.nodes.values()) {
    const use = { pool: id, totalBytes: 100 * GiB, freeBytes: 80 * GiB, ok: true, text: '' };
    n.state = { ...n.state, pools: [...n.state.pools, use], keeper: keeper() };
  }
  r.radio.news();
  return r;
}

export async function made(r: Rig, body: Record<string, unknown>): Promise<VmView> {
  const { status, body: answer } = await r.call('POST', '/api/v1/vms', body);
  if (status !== 202) throw new Error(`create: ${status} ${JSON.stringify(answer)}`);
  const { op, vm } = answer as { op: OpView; vm: VmView };
  let now = op;
  while (now.state === 'queued' || now.state === 'running')
    now = (await r.call('GET', `/api/v1/ops/${op.id}?waitS=5`)).body;
  return vm;
}

export async function vmOf(r: Rig, name: string): Promise<VmView> {
  const { status, body } = await r.call('GET', `/api/v1/vms/${name}`);
  if (status !== 200) throw new Error(`show: ${status} ${JSON.stringify(body)}`);
  return body;
}

/** The VM runs on its node under protection, as far as the ledger goes; its owner says so on the radio. */
export async function armed(r: Rig, name: string, standby: string, said?: VmProtection): Promise<VmView> {
  const { id, own, node } = await vmOf(r, name);
  const next = { ...own, state: 'running', standby, sync: 'ok', fence: { armed: true, waitMs: 7000 } };
  r.memory.poke(`/flotilla/vm/${id}/own`, JSON.stringify(next));
  const lines = r.radio.nodes.get(node ?? '')?.vms;
  const line = lines?.get(id);
  if (line !== undefined) {
    const ha = said ?? { state: 'protected', text: '', standby };
    lines?.set(id, { ...line, phase: 'running', ha });
  }
  await r.view.ledger.refresh();
  r.radio.news();
  r.view.fold();
  return vmOf(r, name);
}

/** It runs in lockstep with a twin there, as far as the ledger goes; null: alone. */
export async function paired(r: Rig, name: string, twin: string | null): Promise<VmView> {
  const { id, own, node } = await vmOf(r, name);
  const lockstep = { twin, state: twin === null ? 'alone' : 'protected' };
  r.memory.poke(`/flotilla/vm/${id}/own`, JSON.stringify({ ...own, state: 'running', lockstep }));
  const lines = r.radio.nodes.get(node ?? '')?.vms;
  const line = lines?.get(id);
  const ha: VmProtection =
    twin === null
      ? { state: 'unprotected', text: 'not protected: it has no twin yet', standby: null }
      : { state: 'protected', text: `in lockstep with its twin on ${twin}`, standby: twin, sinceMs: 1 };
  if (line !== undefined) lines?.set(id, { ...line, phase: 'running', ha });
  await r.view.ledger.refresh();
  r.radio.news();
  r.view.fold();
  return vmOf(r, name);
}

/** Every node of {@link haRig} says that it can run machines in lockstep. */
export function allLockstep(r: Rig, why = ''): void {
  for (const n of r.radio.nodes.values()) n.state = { ...n.state, lockstep: why };
  r.radio.news();
  r.view.fold();
}

/** The node loses power: its lease ends, and nobody hears it any more. */
export async function lost(r: Rig, node: string): Promise<void> {
  await r.ledger.txn([], [{ del: `/flotilla/live/${node}` }]);
  const n = r.radio.nodes.get(node);
  if (n !== undefined) n.silentMs = 60_000;
  await r.view.ledger.refresh();
  r.radio.news();
  r.view.fold();
}

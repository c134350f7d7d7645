import type { Network } from '../core/domain/network.js';
import type { Vapp } from '../core/domain/vapp.js';
import type { VappView, VmRow } from '../core/wire/rest.js';

/** A vApp with what is seen of its members. */
export function vappView(o: {
  readonly vapp: Vapp;
  readonly ops: readonly string[];
  readonly deleting: boolean;
  readonly className: string | null;
  vm(id: string): VmRow | null;
  network(id: string): Network | undefined;
}): VappView {
  const members = o.vapp.members.map(({ make, from: _, ...m }): VappView['members'][number] => {
    const vm = o.vm(m.vm);
    return {
      ...m,
      vmName: vm?.name ?? (typeof make?.['name'] === 'string' ? make['name'] : m.name),
      node: vm?.node ?? null,
      phase: vm?.phase ?? 'creating',
      power: vm?.power ?? null,
      addresses: vm?.addresses ?? [],
      ha: vm?.ha ?? { state: 'off', text: '', standby: null },
    };
  });
  const wanted = members.filter((m) => m.start.action === 'start' && !m.leaving);
  const running = wanted.filter((m) => m.phase === 'running').length;
  const off = members.every((m) => m.phase === 'stopped' || m.power === null);
  const state = o.deleting
    ? 'deleting'
    : o.vapp.members.some((m) => m.make !== null)
      ? 'making'
      : running === wanted.length && wanted.length > 0
        ? 'running'
        : off
          ? 'stopped'
          : members.every((m) => m.phase === 'paused' || m.phase === 'stopped' || m.power === null)
            ? 'suspended'
            : 'partly';
  return {
    ...o.vapp,
    members,
    networks: o.vapp.networks.map((n) => ({
      ...n,
      networkName: o.network(n.network)?.name ?? n.name,
      subnet: o.network(n.network)?.subnet ?? null,
    })),
    className: o.className,
    state,
    ops: [...o.ops],
  };
}

import type { VappDocInput, VappMemberDoc } from '../wire/rest.js';
import type { OvfPackage, OvfStart } from './model.js';
import type { ImportPlan, PlannedVm } from './plan.js';

const delaySMax = 3600;
const timeoutSMax = 7200;
const guestS = 600;
const eulasMax = 8;
const eulaCharsMax = 16_384;

/**
 * A package's collection as the document of a vApp: its systems are members in their order, collections within it nested
 * ones. What guests are told is in their own records already.
 *
 * @param vms - as they are to be made; their NICs name networks of the cluster
 */
export function vappOf(
  p: OvfPackage,
  plan: ImportPlan,
  vms: readonly PlannedVm[],
  name: string,
): VappDocInput {
  const parts = new Set<string>();
  const networks = new Map<string, string>();
  for (const network of vms.flatMap((v) => (v.body.nics ?? []).map((n) => n.network)))
    if (!networks.has(network)) networks.set(network, partOf(network, parts));
  const names = new Set<string>();
  const roots = p.collections.filter((c) => c.collection === null);
  // A collection that is the whole package is the vApp itself.
  const [root] = roots.length === 1 && p.systems.every((s) => s.collection !== null) ? roots : [];
  const membersOf = (collection: string | null): Record<string, VappMemberDoc> => {
    const out: Record<string, VappMemberDoc> = {};
    const order = (id: string): Pick<VappMemberDoc, 'start' | 'stop'> =>
      orderOf(p.startOrder.find((s) => s.collection === collection && s.id === id));
    for (const s of p.systems) {
      const vm = s.collection === collection ? vms.find((v) => v.system === s.id) : undefined;
      if (vm !== undefined) out[partOf(s.id, names)] = { vm: vmOf(vm, networks), ...order(s.id) };
    }
    for (const c of p.collections)
      if (c.collection === collection)
        out[partOf(c.id, names)] = { vapp: { members: membersOf(c.id) }, ...order(c.id) };
    return out;
  };
  const { cpuAllocation = null, memoryAllocation = null } = root ?? {};
  const eulas = p.eulas.slice(0, eulasMax).map((e) => e.text.slice(0, eulaCharsMax));
  return {
    kind: 'VApp',
    name,
    note: (root?.annotation ?? p.annotation).slice(0, 4096),
    tags: [...new Set(plan.vms.flatMap((v) => v.body.tags ?? []))],
    networks: Object.fromEntries([...networks].map(([network, part]) => [part, { network }])),
    members: membersOf(root?.id ?? null),
    ...(eulas.length === 0 ? {} : { eulas }),
    ...(cpuAllocation === null ? {} : { cpuAllocation }),
    ...(memoryAllocation === null ? {} : { memoryAllocation }),
  };
}

/** A member's or network's name, which none of `taken` has yet. */
function partOf(wanted: string, taken: Set<string>): string {
  const plain =
    wanted
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, '-')
      .replaceAll(/^-+|-+$/g, '')
      .slice(0, 28)
      .replace(/-+$/, '') || 'part';
  let part = plain;
  for (let n = 2; taken.has(part); n += 1) part = `${plain}-${n}`;
  taken.add(part);
  return part;
}

function vmOf(vm: PlannedVm, networks: ReadonlyMap<string, string>): NonNullable<VappMemberDoc['vm']> {
  // The order is the vApp's; `after` is made of it.
  const { ha: _, nics, ...body } = vm.body;
  return {
    ...body,
    nics: (nics ?? []).map((n) => ({ ...n, network: networks.get(n.network) ?? n.network })),
  } as NonNullable<VappMemberDoc['vm']>;
}

function orderOf(s: OvfStart | undefined): Pick<VappMemberDoc, 'start' | 'stop'> {
  if (s === undefined) return {};
  return {
    start: {
      order: Math.min(9999, s.order),
      action: s.startAction === 'none' ? 'none' : 'start',
      wait: s.waitForGuest ? 'guest' : 'running',
      ...(s.waitForGuest
        ? {
            timeoutS: Math.min(timeoutSMax, s.startDelayS > 0 ? s.startDelayS : guestS),
            onTimeout: 'go-on' as const,
          }
        : { delayS: Math.min(delaySMax, s.startDelayS) }),
    },
    stop: {
      action: s.stopAction === 'none' ? 'none' : s.stopAction === 'powerOff' ? 'power-off' : 'shutdown',
      delayS: Math.min(delaySMax, s.stopDelayS),
    },
  };
}

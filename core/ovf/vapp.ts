import {
  vappDocSchema,
  type VappDoc,
  type VappDocInput,
  type VappMemberDoc,
  type VappVm,
} from '../wire/rest.js';
import { vappNs, type EmbeddedVapp } from './export.js';
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
  const own = embeddedVapp(p);
  const ours = own === null ? null : withEmbedded(own, p, vms, name);
  if (ours !== null) return { ...ours, tags: tagsOf(plan, ours.tags) };
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
    tags: tagsOf(plan),
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

const tagsOf = (plan: ImportPlan, others: readonly string[] = []): string[] => [
  ...new Set([...others, ...plan.vms.flatMap((v) => v.body.tags ?? [])]),
];

/** What an export of ours says beside OVF; null: there is nothing, or it cannot be read. It is as hostile as all else. */
export function embeddedVapp(p: Pick<OvfPackage, 'kept'>): EmbeddedVapp | null {
  const section = p.kept.find((k) => k.namespace === vappNs && k.name === 'VAppSection');
  const data = /<\w+:Document>([A-Za-z0-9+/=]+)</.exec(section?.xml ?? '')?.[1];
  if (data === undefined) return null;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(
      Uint8Array.from(atob(data), (c) => c.charCodeAt(0)),
    );
    const { document, networks } = JSON.parse(text) as { document?: unknown; networks?: unknown };
    const read = vappDocSchema.safeParse(document);
    if (!read.success || typeof networks !== 'object' || networks === null) return null;
    const names = Object.entries(networks).filter(([, n]) => typeof n === 'string');
    return { document: read.data, networks: Object.fromEntries(names) };
  } catch {
    return null;
  }
}

/** Its networks of its own, by their names in the package: they are made anew. */
export const isolatedOf = (own: EmbeddedVapp): string[] =>
  Object.entries(own.networks)
    .filter(([part]) => 'isolated' in (own.document.networks?.[part] ?? {}))
    .map(([, name]) => name);

/** What only the guest's hypervisor and its vApp know; sizes, disks and NICs are said by the package itself. */
const beside = [
  'note',
  'boot',
  'cloudInit',
  'stopTimeoutS',
  'onCrash',
  'ha',
  'autoMove',
  'cpuShares',
] as const satisfies readonly (keyof VappVm)[];

/** @returns null: what is embedded is not about the systems of this package */
function withEmbedded(
  { document, networks }: EmbeddedVapp,
  p: OvfPackage,
  vms: readonly PlannedVm[],
  name: string,
): VappDocInput | null {
  const seen = new Set<string>();
  const used = new Map<string, string>();
  let fits = true;
  const membersOf = (members: Readonly<Record<string, VappMemberDoc>>): Record<string, VappMemberDoc> =>
    Object.fromEntries(
      Object.entries(members).map(([part, m]): [string, VappMemberDoc] => {
        if (m.vapp !== undefined)
          return [part, { ...m, vapp: { ...m.vapp, members: membersOf(m.vapp.members) } }];
        const vm = vms.find((v) => v.system === part);
        if (vm === undefined) {
          fits = false;
          return [part, m];
        }
        seen.add(part);
        const { ha: _, nics = [], note: _note, tags: _tags, name: made, cloudInit: _told, ...body } = vm.body;
        const said = Object.fromEntries(
          beside.flatMap((k) => (m.vm?.[k] === undefined ? [] : [[k, m.vm[k]]])),
        ) as Partial<VappVm>;
        const then = m.vm?.nics ?? [];
        if (then.length !== nics.length) fits = false;
        const own = then.map((n, i) => {
          const network = nics[i]?.network ?? '';
          if ((used.get(n.network) ?? network) !== network) fits = false;
          used.set(n.network, network);
          return { ...n, model: nics[i]?.model };
        });
        const disks = body.disks.map((d, i) => ({ ...d, name: m.vm?.disks?.[i]?.name ?? d.name }));
        const usual = made.endsWith(`${document.name}-${part}`);
        return [
          part,
          {
            ...m,
            vm: { ...body, ...said, disks, nics: own, ...(usual ? {} : { name: made }) },
          },
        ];
      }),
    );
  const members = membersOf(document.members);
  if (!fits || seen.size !== p.systems.length) return null;
  const partsOf = document.networks ?? {};
  const doc: VappDoc = document;
  const { class: _, owner: _owner, ...kept } = doc;
  return {
    ...kept,
    name,
    networks: Object.fromEntries(
      Object.entries(partsOf).map(([part, n]) => {
        const ours = used.get(part);
        const anew = 'isolated' in n && (ours === undefined || ours === networks[part]);
        return [part, anew || ours === undefined ? n : { network: ours }];
      }),
    ),
    members,
  };
}

/** Values of properties of the vApp itself that somebody gave for the package, as they are of its types. */
export function valuesOf(
  { document }: EmbeddedVapp,
  given: Readonly<Record<string, string>>,
): Record<string, string | number | boolean> {
  const typed = (type: string, text: string): string | number | boolean =>
    type === 'boolean' ? /^(?:true|1)$/i.test(text) : type === 'string' ? text : Number(text);
  return Object.fromEntries(
    Object.entries(given).flatMap(([id, text]) => {
      const property = document.properties?.[id];
      return property === undefined ? [] : [[id, typed(property.type, text)]];
    }),
  );
}

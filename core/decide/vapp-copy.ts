import { isReplicated, type Disk } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import type { Network } from '../domain/network.js';
import type { Pool } from '../domain/pool.js';
import { templateVmMember } from '../domain/template.js';
import { vappStartDefault, vappStopDefault, type Vapp, type VappProperty } from '../domain/vapp.js';
import type { VmSpec } from '../domain/vm.js';
import type { VappDoc, VappMemberDoc, VappVm } from '../wire/rest-vapp.js';
import { documentOf } from './vapp-doc.js';
import { referencesIn, refersTo } from './vapp-text.js';
import { hostNameFor } from './vm-snapshot.js';

/** What is copied. */
export interface CopySource {
  spec(vm: string): VmSpec | undefined;
  disks(vm: string): readonly Disk[];
  network(id: string): Network | undefined;
}

export interface VappCopy {
  /** Refers to what the cluster has by id. Its disks say neither size nor image: they begin as those of the original were. */
  readonly document: VappDoc;
  /** By member, the VM whose disks it begins with; not those that have none. */
  readonly sources: ReadonlyMap<string, string>;
}

/**
 * A vApp as the document of one beside it: with its order, properties, rules and networks of its own made anew, in which
 * addresses stay as they are; names, MACs and other addresses are new, CD drives empty, and it is nobody's.
 *
 * @see docs/vapps.md
 */
export function copyOf(v: Vapp, at: CopySource, name: string): VappCopy {
  const { owner: _, ...doc } = documentOf(v, { ...at, nameOf: (_kind, id) => id }, true);
  const sources = new Map<string, string>();
  const vmOf = (member: string, d: VappVm): VappVm => {
    const vm = v.members.find((m) => m.name === member)?.vm ?? '';
    const spec = at.spec(vm);
    if (spec === undefined) return d;
    // What is detached is in no snapshot.
    const disks = spec.disks.flatMap(({ disk, bus, detached }) => {
      const known = at.disks(vm).find((x) => x.id === disk);
      if (known === undefined || detached === true) return [];
      return [
        {
          name: known.name,
          pool: known.pool,
          bus,
          format: known.format,
          ...(isReplicated(known) ? { replicas: 2 as const } : {}),
        },
      ];
    });
    if (disks.length > 0) sources.set(member, vm);
    return {
      ...d,
      disks,
      ...(spec.cdroms.length === 0 ? {} : { cdroms: spec.cdroms.map(() => ({ image: null })) }),
      nics: (d.nics ?? []).map((n, i) => {
        const nic = spec.nics[i];
        const own = v.networks.some((x) => x.own && x.network === nic?.network);
        return own && nic !== undefined ? { ...n, address: nic.address } : n;
      }),
      ...(spec.cloudInit !== null && spec.cloudInit.hostname === hostNameFor(spec.name)
        ? { cloudInit: { ...spec.cloudInit, hostname: null } }
        : {}),
    };
  };
  const networks = Object.fromEntries(
    Object.entries(doc.networks ?? {}).map(([part, n]) => {
      const ours = v.networks.find((x) => x.name === part);
      return [part, 'isolated' in n || ours === undefined ? n : { network: ours.network }];
    }),
  );
  return { document: { ...doc, name, networks, members: eachVm(doc.members, vmOf) }, sources };
}

/** A VM as a vApp of its own, to be copied. @param network - of the cluster, by id */
export function vmAsVapp(spec: VmSpec, network: CopySource['network']): Vapp {
  const parts = new Set<string>();
  const partOf = (id: string): string => {
    const plain = (network(id)?.name ?? 'net')
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, '-')
      .replaceAll(/^-+|-+$/g, '')
      .slice(0, 28)
      .replace(/-+$/, '');
    let part = plain === '' ? 'net' : plain;
    for (let n = 2; parts.has(part); n += 1) part = `${plain === '' ? 'net' : plain}-${n}`;
    parts.add(part);
    return part;
  };
  return {
    id: spec.id,
    name: spec.name,
    generation: 1,
    note: spec.note,
    tags: spec.tags,
    owner: '',
    class: spec.class?.id ?? null,
    members: [
      {
        name: templateVmMember,
        group: null,
        vm: spec.id,
        start: vappStartDefault,
        stop: vappStopDefault,
        make: null,
        leaving: false,
      },
    ],
    groups: [],
    // A vApp's isolated network stays that one's: a copy gets one like it.
    networks: [...new Set(spec.nics.map((n) => n.network))].map((id) => ({
      name: partOf(id),
      network: id,
      own: network(id)?.vapp !== undefined,
    })),
    properties: [],
    rules: [],
    failover: 'members',
    eulas: [],
    cpuAllocation: null,
    memoryAllocation: null,
    ovf: null,
  };
}

/**
 * A document as that of a template: with these properties, too.
 *
 * @throws FlotillaError `bad-input`: a guest's text asks for what there is not
 */
export function templateDocument(doc: VappDoc, name: string, properties: VappDoc['properties']): VappDoc {
  const all = { ...doc.properties, ...properties };
  const known = {
    properties: Object.keys(all).map((n) => ({ name: n })),
    members: [] as { name: string; leaving: boolean }[],
  };
  const texts: [string, string][] = [];
  eachVm(doc.members, (member, d) => {
    known.members.push({ name: member, leaving: false });
    texts.push([member, d.cloudInit?.userData ?? '']);
    return d;
  });
  for (const [member, text] of texts)
    for (const r of referencesIn(text))
      if (!refersTo(known, r))
        throw new FlotillaError(
          'bad-input',
          `The user data of "${member}" asks for @{${r}}, which is no property, and no member's address or name`,
          { hint: `Give the template a property "${r}", or write @@{ for @{ itself.` },
        );
  return { ...doc, name, properties: all };
}

/** Properties of a template as a vApp of it has them. Values of secret ones are nowhere. */
export const propertiesOf = (doc: Pick<VappDoc, 'properties'>): VappProperty[] =>
  Object.entries(doc.properties ?? {}).map(([name, { value, default: usual, ...p }]) => ({
    ...p,
    name,
    default: p.secret ? null : (usual ?? null),
    value: p.secret ? null : (value ?? null),
  }));

/** Members of a document with what is said of each. */
export function vmsOf(doc: Pick<VappDoc, 'members'>): Map<string, VappVm> {
  const out = new Map<string, VappVm>();
  eachVm(doc.members, (name, d) => {
    out.set(name, d);
    return d;
  });
  return out;
}

/** A VM's template makes a VM of the vApp's own name. */
export function namedCopy(doc: VappDoc, name: string, ofVm: boolean): VappDoc {
  const members = ofVm ? eachVm(doc.members, (_, d) => ({ ...d, name })) : doc.members;
  return { ...doc, name, members };
}

/**
 * The same where disks store only what differs from the original's: on thin pools that is one copy each, so without HA where
 * another node does not reach it.
 *
 * @returns with what its VMs lose by that, and what is copied even so, in words
 */
export function linkedCopy(
  doc: VappDoc,
  pool: (id: string) => Pick<Pool, 'kind'> | undefined,
  isHa: (member: string) => boolean,
): { readonly document: VappDoc; readonly warnings: readonly string[] } {
  const warnings: string[] = [];
  const vmOf = (member: string, d: VappVm): VappVm => {
    const kinds = (d.disks ?? []).map((x) => pool(x.pool ?? '')?.kind);
    const reached = kinds.every((k) => k === 'shared');
    if (!reached && (d.ha?.enabled === true || isHa(member)))
      warnings.push(`"${member}" has no HA: a linked disk has one copy, and is on one node`);
    const twice = (d.disks ?? []).filter((x) => x.replicas === 2).map((x) => x.name ?? '');
    if (twice.length > 0)
      warnings.push(
        `"${member}": all of ${twice.join(', ')} is copied, not linked: the original is on two nodes`,
      );
    return {
      ...d,
      disks: (d.disks ?? []).map((x, i) => ({
        ...x,
        ...(kinds[i] === 'thin' ? { replicas: 1 as const } : { format: 'qcow2' as const }),
      })),
      ...(reached ? {} : { ha: { ...d.ha, enabled: false, lockstep: false } }),
    };
  };
  return { document: { ...doc, members: eachVm(doc.members, vmOf) }, warnings };
}

function eachVm(
  members: Readonly<Record<string, VappMemberDoc>>,
  vmOf: (member: string, d: VappVm) => VappVm,
): Record<string, VappMemberDoc> {
  return Object.fromEntries(
    Object.entries(members).map(([name, m]): [string, VappMemberDoc] => [
      name,
      m.vm !== undefined
        ? { ...m, vm: vmOf(name, m.vm) }
        : m.vapp === undefined
          ? m
          : { ...m, vapp: { ...m.vapp, members: eachVm(m.vapp.members, vmOf) } },
    ]),
  );
}

import { isReplicated, type Disk } from '../domain/disk.js';
import type { Network } from '../domain/network.js';
import type { Pool } from '../domain/pool.js';
import type { Vapp } from '../domain/vapp.js';
import type { VmSpec } from '../domain/vm.js';
import type { VappDoc, VappMemberDoc, VappVm } from '../wire/rest-vapp.js';
import { documentOf } from './vapp-doc.js';
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

/**
 * The same where disks store only what differs from the original's: on thin pools that is one copy each, so without HA where
 * another node does not reach it.
 *
 * @returns with what its VMs lose by that, in words
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
    return {
      ...d,
      disks: (d.disks ?? []).map((x, i) => ({
        ...x,
        ...(kinds[i] === 'thin' ? { replicas: 1 as const } : { format: 'qcow2' as const }),
      })),
      ...(reached ? {} : { ha: { ...d.ha, enabled: false } }),
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

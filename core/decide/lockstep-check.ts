import { isReplicated, isLinked, liesApart, type Disk } from '../domain/disk.js';
import type { AdmissionMode } from '../domain/ha.js';
import type { Pool } from '../domain/pool.js';
import { isDetached, type VmOwn, type VmSpec } from '../domain/vm.js';
import type { Blocker, NodeBlockers } from './blocker.js';
import { refusals, type PlacementDisk, type PlacementRequest } from './plan/fit.js';
import { planTwin, twinName, type ClusterNode } from './plan/gather.js';
import type { PlanCluster } from './plan/model.js';
import { place } from './plan/placement.js';

/** What was measured with two machines of one VM, and no more: docs/lockstep.md. */
export const lockstepLimits = { cpusMax: 2, disksMax: 1, nicsMax: 1 } as const;

export interface LockstepView {
  readonly spec: VmSpec;
  readonly own: VmOwn;
  readonly disks: readonly Disk[];
  pool(id: string): Pool | undefined;
  readonly networks: PlacementRequest['networks'];
  readonly nodes: readonly ClusterNode[];
  readonly cluster: PlanCluster;
  readonly admission: AdmissionMode;
  /** The only node wanted; null: any. */
  readonly node: string | null;
}

/** Whether a VM could be in lockstep, and where its twin would run: all that speaks against it, not just the first thing. */
export interface LockstepCheck {
  /** Null: nowhere. The present twin's node, where there is one and it fits. */
  readonly to: string | null;
  /** What is against it whatever the node. */
  readonly blockers: readonly Blocker[];
  readonly nodes: readonly NodeBlockers[];
  /** Why that node. */
  readonly reasons: readonly string[];
  /** What is promised elsewhere and would not be kept, in words. */
  readonly warnings: readonly string[];
}

/** @see safety 11, docs/lockstep.md */
export function checkLockstep(v: LockstepView): LockstepCheck {
  const owner = v.nodes.find((n) => n.id === v.own.owner);
  const blockers = [...shapeBlockers(v.spec, v.disks, (id) => v.pool(id)), ...ownerBlockers(owner)];
  const twin = v.own.lockstep?.twin ?? null;
  const others = v.nodes.filter((n) => n.id !== v.own.owner && (v.node === null || v.node === n.id));
  const request = requestOf(v);
  const nodes = new Map<string, Blocker[]>();
  const fit: ClusterNode[] = [];
  for (const n of others) {
    const own = n.witness ? [] : partBlockers(n, owner);
    if (own.length === 0) fit.push(without(n, v.spec, n.id === twin));
    else nodes.set(n.id, [...refusals(request(n.id === twin), n).map(asBlocker), ...own]);
  }
  const placed = place({
    request: request(false),
    vm: planTwin(
      v.spec,
      '',
      others.map((n) => n.id),
    ),
    // What it has there already takes no more room.
    nodes: fit.filter((n) => n.id !== twin),
    cluster: { ...v.cluster, rules: twinRules(v) },
    admission: v.admission,
  });
  const kept = fit.find((n) => n.id === twin);
  const refusedTwin = kept === undefined ? [] : refusals(request(true), kept).map(asBlocker);
  if (refusedTwin.length > 0 && kept !== undefined) nodes.set(kept.id, refusedTwin);
  if (!placed.ok)
    for (const r of placed.nodes)
      nodes.set(r.node, [...(nodes.get(r.node) ?? []), ...r.reasons.map(asBlocker)]);
  const stays = kept !== undefined && refusedTwin.length === 0;
  const to = stays ? kept.id : placed.ok ? placed.node : null;
  return {
    to: blockers.length === 0 ? to : null,
    blockers,
    nodes: [...nodes]
      .map(([node, of]) => ({ node, blockers: of }))
      .sort((a, b) => (a.node < b.node ? -1 : 1)),
    reasons: stays
      ? ['its twin is there']
      : placed.ok
        ? [
            ...placed.reasons.slice(0, 1),
            ...rackReason(
              owner,
              fit.find((n) => n.id === placed.node),
            ),
          ]
        : [],
    warnings: stays || !placed.ok ? [] : placed.warnings,
  };
}

/** What of a VM as it is made two machines of it cannot keep equal, or was not tried. */
export function shapeBlockers(
  spec: VmSpec,
  disks: readonly Disk[],
  poolOf: (id: string) => Pick<Pool, 'name' | 'kind'> | undefined,
): Blocker[] {
  const out: Blocker[] = [];
  const no = (code: string, text: string, hint: string): void => void out.push({ code, text, hint });
  const { cpusMax, disksMax, nicsMax } = lockstepLimits;
  if (spec.cpus > cpusMax)
    no(
      'cpus',
      `it has ${spec.cpus} vCPUs; more than ${cpusMax} were not tried`,
      `Give it at most ${cpusMax}.`,
    );
  if (spec.firmware !== 'bios')
    no('firmware', 'it boots by UEFI, which was not tried', 'Only VMs with a BIOS can be in lockstep.');
  if (spec.boot[0] === 'network')
    no('network-boot', 'it boots from the network first', 'Let it boot from its disk.');
  if (spec.ha.onHang === 'reset')
    no(
      'watchdog',
      'its guest has a virtual watchdog that resets it, on each side at its own time',
      'Have nothing done when it hangs: --on-hang nothing.',
    );
  if (spec.disks.length === 0) no('no-disk', 'it has no disk', 'Give it one on a local or thin pool.');
  if (spec.disks.length > disksMax)
    no(
      'disks',
      `it has ${spec.disks.length} disks; more than ${disksMax} were not tried`,
      'Put all on one disk.',
    );
  for (const d of spec.disks) diskBlockers(spec, d.disk, disks, poolOf, no);
  if (spec.nics.length > nicsMax)
    no(
      'nics',
      `it has ${spec.nics.length} network cards; more than ${nicsMax} were not tried`,
      'Leave it one.',
    );
  for (const n of spec.nics)
    if (n.model !== 'virtio')
      no('nic-model', `its network card ${n.mac} is an ${n.model}`, 'Give it a virtio card instead.');
  if (spec.cdroms.some((c) => c.image !== null))
    no('cdrom', 'a disc is in its CD drive, which the other node may not have', 'Take it out: --eject.');
  return out;
}

type No = (code: string, text: string, hint: string) => void;

function diskBlockers(
  spec: VmSpec,
  id: string,
  disks: readonly Disk[],
  poolOf: (id: string) => Pick<Pool, 'name' | 'kind'> | undefined,
  no: No,
): void {
  const disk = disks.find((d) => d.id === id);
  const pool = disk && poolOf(disk.pool);
  if (disk === undefined || pool === undefined) {
    no('no-record', `its disk ${id} or that disk's pool has no record`, 'Its records must be mended first.');
    return;
  }
  const name = `its disk "${disk.name}"`;
  const how = isReplicated(disk)
    ? 'two copies by the storage itself'
    : `the ${pool.kind} pool "${pool.name}"`;
  if (!liesApart(disk, pool))
    no(
      'pool',
      `${name} is on ${how}: each of both machines writes to a disk of its own`,
      isReplicated(disk)
        ? 'Leave it one copy: flotilla vm move-disk, with --replicas 1.'
        : 'Move it to a local or thin pool, with one copy: flotilla vm move-disk.',
    );
  if (disk.format !== 'raw')
    no(
      'format',
      `${name} is a ${disk.format} file`,
      'Only raw ones can be kept equal: move it, with format raw.',
    );
  if (isLinked(disk))
    no(
      'linked',
      `${name} lies over an image or snapshot, which only its node has`,
      'Move it: then it is whole.',
    );
  if (spec.disks.find((d) => d.disk === id)?.bus !== 'virtio')
    no('bus', `${name} is not on the virtio bus`, 'Attach it as a virtio disk.');
  if (isDetached(spec, id))
    no('detached', `${name} is taken out of the machine, and would stay behind`, 'Attach it, or remove it.');
}

function ownerBlockers(owner: ClusterNode | undefined): Blocker[] {
  if (owner === undefined || owner.lockstep === '') return [];
  return [cannot(`its node ${owner.id}`, owner.lockstep)];
}

const cannot = (who: string, why: string | undefined): Blocker => ({
  code: 'no-lockstep',
  text: `${who} cannot run a machine in lockstep: ${why ?? 'it has no part for that, or has not said'}`,
  hint: 'Update the node to an image that has it (docs/lockstep.md), or choose another.',
});

function partBlockers(n: ClusterNode, owner: ClusterNode | undefined): Blocker[] {
  const out: Blocker[] = [];
  const no: No = (code, text, hint) => void out.push({ code, text, hint });
  if (!n.live) no('not-alive', 'has no lease in the ledger', 'Look at its keeper and its network.');
  if (n.presence === 'here' && n.lockstep !== '') out.push(cannot('it', n.lockstep));
  if (n.keeper === null)
    no(
      'no-keeper',
      'its keeper does not answer: nobody would end a twin there in time',
      'Look at its keeper.',
    );
  if (owner !== undefined && n.accel !== null && owner.accel !== null && n.accel !== owner.accel)
    no(
      'other-cpu',
      `runs VMs by ${n.accel === 'kvm' ? 'KVM' : 'emulation'}, ${owner.id} does not`,
      'Choose a node of the same kind.',
    );
  // A twin has its owner's processor as it is, with all that a guest found there.
  else if (n.accel === 'kvm' && owner?.cpuModel !== undefined && n.cpuModel !== undefined)
    if (n.cpuModel !== owner.cpuModel)
      no(
        'other-cpu',
        `has another processor (${n.cpuModel}) than ${owner.id} (${owner.cpuModel})`,
        'Choose a node with the same processor.',
      );
  return out;
}

/** The node without what the VM's twin has of it. */
const without = (n: ClusterNode, spec: VmSpec, there: boolean): ClusterNode =>
  !there
    ? n
    : {
        ...n,
        committedCpus: n.committedCpus - spec.cpus,
        committedMemoryMiB: n.committedMemoryMiB - spec.memoryMiB,
        vms: n.vms - 1,
      };

/** @returns what is asked of a node; `there`: the twin's disks are there already */
function requestOf(v: LockstepView): (there: boolean) => PlacementRequest {
  const disks = v.disks.flatMap((d): PlacementDisk[] => {
    const pool = v.spec.disks.some((x) => x.disk === d.id) ? v.pool(d.pool) : undefined;
    // A raw file is written in full.
    return pool === undefined || d.state === 'deleting'
      ? []
      : [{ name: d.name, pool, sizeBytes: d.sizeBytes, copiedBytes: d.sizeBytes, image: null }];
  });
  return (there) => ({
    cpus: v.spec.cpus,
    memoryMiB: v.spec.memoryMiB,
    disks: there ? disks.map((d) => ({ ...d, copiedBytes: 0 })) : disks,
    isos: [],
    networks: v.networks,
    node: null,
  });
}

/** What is wanted of the VM is wanted of its twin, which may be it at any time. */
const twinRules = (v: LockstepView): NonNullable<PlanCluster['rules']> =>
  (v.cluster.rules ?? []).map((r) =>
    r.vms.includes(v.spec.name)
      ? { ...r, vms: [...r.vms.filter((x) => x !== v.spec.name), twinName(v.spec.id)] }
      : r,
  );

const asBlocker = (r: {
  readonly reason: string;
  readonly text: string;
  readonly hint: string;
}): Blocker => ({
  code: r.reason,
  text: r.text,
  hint: r.hint,
});

const rackReason = (owner: ClusterNode | undefined, to: ClusterNode | undefined): string[] =>
  owner === undefined || to === undefined || owner.rack === null || to.rack === null
    ? []
    : [
        owner.rack === to.rack
          ? `it is in the rack of ${owner.id}, ${to.rack}: both may fail together`
          : `it is in another rack than ${owner.id}`,
      ];

/** All that speaks against it in one text; empty: nothing does. */
export function lockstepText(c: LockstepCheck): string {
  if (c.to !== null) return '';
  if (c.blockers.length > 0) return c.blockers.map((b) => b.text).join('; ');
  if (c.nodes.length === 0) return 'there is no other node';
  return c.nodes.map((n) => `${n.node}: ${n.blockers.map((b) => b.text).join('; ')}`).join(' · ');
}

import { isReplicated, type Disk } from '../domain/disk.js';
import type { AdmissionMode } from '../domain/ha.js';
import type { Op } from '../domain/op.js';
import type { Pool } from '../domain/pool.js';
import type { VmOwn, VmPhase, VmSpec } from '../domain/vm.js';
import type { Blocker, NodeBlockers } from './blocker.js';
import { refusals, type PlacementRequest } from './plan/fit.js';
import type { ClusterNode } from './plan/gather.js';
import type { Moves } from './plan/move.js';
import { ruleReason } from './plan/placement.js';

export interface MigrateCheckView {
  readonly spec: VmSpec;
  readonly own: VmOwn;
  readonly phase: VmPhase;
  readonly disks: readonly Disk[];
  pool(id: string): Pool | undefined;
  /** Its unfinished operations. */
  readonly ops: readonly Op[];
  readonly isos: PlacementRequest['isos'];
  readonly networks: PlacementRequest['networks'];
  readonly nodes: readonly ClusterNode[];
  /** The cluster as the planner sees it, this VM in it by its name. Asked, and left as it is. */
  readonly moves: Moves;
  readonly admission: AdmissionMode;
  /** The only node wanted; null: any. */
  readonly node: string | null;
}

export interface MigrateCheck {
  /** Where it would go; null: nowhere. */
  readonly to: string | null;
  /** What keeps it where it is, whatever the target. */
  readonly blockers: readonly Blocker[];
  /** And what speaks against each node. */
  readonly nodes: readonly NodeBlockers[];
  /** Why that node. */
  readonly reasons: readonly string[];
}

const noRoomText = 'with it there, VMs that are promised a place would not all find one';

/** Whether a VM can migrate while it runs, and where to: all that speaks against it, not just the first thing. */
export function checkMigration(v: MigrateCheckView): MigrateCheck {
  const blockers = vmBlockers(v);
  const others = v.nodes.filter((n) => n.id !== v.own.owner && (v.node === null || v.node === n.id));
  const request: PlacementRequest = {
    cpus: v.spec.cpus,
    memoryMiB: v.spec.memoryMiB,
    disks: v.disks.flatMap((d) => {
      const pool = v.pool(d.pool);
      // What has its copy there takes no more room.
      return pool === undefined || d.state === 'deleting' || isReplicated(d)
        ? []
        : [{ name: d.name, pool, sizeBytes: d.sizeBytes, image: null }];
    }),
    isos: v.isos,
    networks: v.networks,
    node: null,
  };
  const source = v.nodes.find((n) => n.id === v.own.owner);
  const vm = v.moves.s.vms.findIndex((x) => x.name === v.spec.name);
  const nodes = [...others]
    .sort((a, b) => (a.id < b.id ? -1 : 1))
    .map((n) => ({ node: n.id, blockers: nodeBlockers(v, request, n, source, vm) }));
  if (v.node === v.own.owner)
    nodes.push({
      node: v.node,
      blockers: [{ code: 'owner', text: 'it runs there already', hint: 'Name another node, or none.' }],
    });
  const fit = new Set(nodes.filter((n) => n.blockers.length === 0).map((n) => n.node));
  const among = (n: number): boolean => fit.has(v.moves.s.nodes[n]?.name ?? '');
  const kept = vm < 0 ? null : v.moves.best(vm, among);
  const seat = kept ?? (vm < 0 ? null : v.moves.best(vm, among, true));
  const to = seat === null ? null : (v.moves.s.nodes[seat.node]?.name ?? null);
  return {
    to: blockers.length === 0 ? to : null,
    blockers,
    nodes: nodes.filter((n) => n.blockers.length > 0),
    reasons:
      to === null
        ? []
        : [
            `${to} leaves the cluster most even of ${fit.size} that fit`,
            ...(kept === null ? [`${noRoomText} if a node fails`] : []),
          ],
  };
}

function vmBlockers(v: MigrateCheckView): Blocker[] {
  const { spec, own, phase, disks, ops } = v;
  const out: Blocker[] = [];
  const no = (code: string, text: string, hint: string): void => void out.push({ code, text, hint });
  const under = ops.find((o) => o.kind === 'vm.migrate');
  if (own.state === 'migrating' || under !== undefined)
    no('under-way', 'it migrates already', 'Wait until that has ended, or cancel it.');
  else if (phase === 'unknown')
    no('unknown', 'nobody knows what it does: its owner is silent', 'Bring its node back.');
  else if (own.state === 'running' && phase === 'starting')
    no('starting', 'it is being started', 'Wait until it runs.');
  else if (own.state === 'stopped' || (phase !== 'running' && phase !== 'paused'))
    no('not-running', `it does not run: it is ${phase}`, 'Start it first.');
  if (spec.power === 'stopped' && own.state !== 'stopped')
    no('stopping', 'it was asked to stop', 'Wait until it is off.');
  for (const o of ops)
    if (o.kind !== 'vm.migrate' && o.kind !== 'vm.failover')
      no('busy', `another operation on it is not finished: ${o.kind}`, 'Wait for its end: flotilla op list.');
  if (own.lockstep && own.state !== 'stopped') {
    no(
      'lockstep',
      'it is in lockstep: only its twin can go on elsewhere',
      'Its node set to maintenance gives it to its twin: flotilla node drain.',
    );
    return out;
  }
  for (const { disk: id } of spec.disks) {
    const disk = disks.find((d) => d.id === id);
    const on = disk && v.pool(disk.pool);
    if (disk === undefined || on === undefined)
      no(
        'no-record',
        `its disk ${id} or that disk's pool has no record`,
        'Its records must be mended first.',
      );
    else if (disk.state !== 'ready')
      no('disk-not-ready', `its disk "${disk.name}" is ${disk.state}`, 'Wait until it is made.');
    else if (isReplicated(disk)) {
      if (!own.synced.includes(id) || own.sync !== 'ok')
        no(
          'copies-differ',
          `the copies of its disk "${disk.name}" are not in sync`,
          'Bring the other node or the storage network back, and wait until flotilla vm show says so.',
        );
    } else if (on.kind !== 'shared')
      no(
        'local-disk',
        `its disk "${disk.name}" is on the ${on.kind} pool "${on.name}", which no other node reaches`,
        'Only VMs whose disks are on shared pools, or have two copies, migrate while they run.',
      );
  }
  return out;
}

function nodeBlockers(
  v: MigrateCheckView,
  request: PlacementRequest,
  n: ClusterNode,
  source: ClusterNode | undefined,
  vm: number,
): Blocker[] {
  const at = v.moves.s.nodes.findIndex((x) => x.name === n.id);
  const bars = vm < 0 || at < 0 ? [] : v.moves.rules.bars(vm, at).map(ruleReason);
  const out: Blocker[] = [...refusals(request, n), ...bars].map((r) => ({
    code: r.reason,
    text: r.text,
    hint: r.hint,
  }));
  const no = (code: string, text: string, hint: string): void => void out.push({ code, text, hint });
  if (n.witness) return out;
  if (!n.live) no('not-alive', 'has no lease in the ledger', 'Look at its keeper and its network.');
  if (source !== undefined && n.accel !== null && source.accel !== null && n.accel !== source.accel)
    no(
      'other-cpu',
      `runs VMs by ${n.accel === 'kvm' ? 'KVM' : 'emulation'}, ${source.id} does not`,
      'Choose a node of the same kind, or stop the VM and start it there.',
    );
  if (isOlder(n.qemu, source?.qemu ?? null))
    no(
      'older-qemu',
      `has QEMU ${n.qemu}, older than the ${source?.qemu} that it runs on`,
      'Upgrade that node first.',
    );
  if (v.own.copies.length > 0 && !v.own.copies.some((c) => c.node === n.id))
    no(
      'no-copy',
      'has no copy of its disks',
      `They are on ${v.own.copies.map((c) => c.node).join(' and ')}.`,
    );
  if (v.own.fence.armed && n.keeper?.armable !== true)
    no(
      'not-armable',
      `could not protect it: ${n.keeper === null ? 'its keeper does not answer' : n.keeper.why}`,
      'Mend its keeper or watchdog, or turn the VM’s HA off.',
    );
  if (v.admission === 'enforce' && out.length === 0 && vm >= 0 && at >= 0 && v.moves.seat(vm, at) === null)
    no(
      'no-failover-room',
      noRoomText + ' if a node fails',
      'Choose another node, free memory, or say that promises may be broken: flotilla ha admission warn.',
    );
  return out;
}

/** By major and minor number; what is not known is not called older. */
function isOlder(a: string | null, b: string | null): boolean {
  const parts = (s: string | null): readonly number[] | null => {
    const m = /^(\d+)\.(\d+)/.exec(s ?? '');
    return m === null ? null : [Number(m[1]), Number(m[2])];
  };
  const [x, y] = [parts(a), parts(b)];
  if (x === null || y === null) return false;
  return (x[0] ?? 0) < (y[0] ?? 0) || (x[0] === y[0] && (x[1] ?? 0) < (y[1] ?? 0));
}

/** All of it in one text. */
export function migrateText(c: MigrateCheck): string {
  const all = [
    ...c.blockers.map((b) => b.text),
    ...c.nodes.map((n) => `${n.node}: ${n.blockers.map((b) => b.text).join('; ')}`),
  ];
  return all.length === 0 ? 'there is no other node' : all.join(' · ');
}

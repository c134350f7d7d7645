import { movedDisk, placeText } from '../../core/decide/disk-move.js';
import { checkDiskStands, checkNothingLeft } from '../../core/decide/lockstep.js';
import { refusals } from '../../core/decide/plan/fit.js';
import { shapeBlockers } from '../../core/decide/lockstep-check.js';
import { checkReach, checkShape } from '../../core/decide/vm-ha-edit.js';
import { refusal } from '../../core/decide/vm-make.js';
import { isReplicated, type Disk } from '../../core/domain/disk.js';
import type { DiskMoveArgs } from '../../core/domain/disk-move.js';
import { FlotillaError } from '../../core/domain/error.js';
import { opFinished } from '../../core/domain/op.js';
import type { Pool } from '../../core/domain/pool.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask } from './context.js';
import { idOf, notFound, poolOf } from './lookup.js';
import { newOp, repeated } from './ops.js';
import { Pairs } from './pairs.js';
import type { VmChanged } from './vm-write.js';

/** Wishes to move disks. The owner's agent does them. */
export class DiskMoves {
  private readonly deps: ApiDeps;
  private readonly pairs: Pairs;

  constructor(deps: ApiDeps) {
    this.deps = deps;
    this.pairs = new Pairs(deps);
  }

  async move(ask: Ask<'vmMoveDisk'>): Promise<VmChanged> {
    const { deps } = this;
    const { view, chance } = deps;
    const { body } = ask;
    const id = await idOf(view, 'vm', ask.params.vm);
    const target = body.pool === undefined ? null : await idOf(view, 'pool', body.pool);
    const mark = requestMark(ask);
    const key = ask.idempotencyKey;
    const opId = idFromKey(chance, ask.who, `vmMoveDisk ${id}`, key);
    const before = key === null ? null : await repeated(deps, opId, mark);
    if (before !== null) return { op: before, vmId: id };
    return commit<VmChanged>(deps, `VM "${ask.params.vm}"`, async () => {
      const [spec, own] = await Promise.all([fresh(deps, kinds.vmSpec, id), fresh(deps, kinds.vmOwn, id)]);
      if (spec === null || own === null) throw notFound('vm', ask.params.vm);
      const who = `VM "${spec.value.name}"`;
      const busy = view.vmOps(id).find((o) => !opFinished(o));
      if (busy !== undefined)
        throw new FlotillaError('wrong-state', `${who} has ${busy.kind} under way`, {
          hint: `Wait for it, or end it: flotilla op cancel ${busy.id}.`,
        });
      const mine = view
        .vmDisks(id)
        .filter((k) => spec.value.disks.some((d) => d.disk === k.value.id) && k.value.state !== 'deleting');
      const ref = ask.params.disk;
      const kept =
        mine.find((k) => k.value.id === ref.toLowerCase()) ?? mine.find((k) => k.value.name === ref);
      if (kept === undefined)
        throw new FlotillaError('not-found', `${who} has no disk "${ref}"`, {
          hint: `It has: ${mine.map((k) => k.value.name).join(', ') || 'none'}.`,
        });
      const from = kept.value;
      const pool = poolOf(view, target ?? from.pool);
      const to = movedDisk(
        who,
        from,
        { pool, format: body.format, replicas: body.replicas },
        { id: chance.uuid(), owner: own.value.owner },
      );
      checkDiskStands(who, own.value);
      checkNothingLeft(who, own.value, view.ledger.tables.node);
      const after = mine.map((k) => (k.value.id === from.id ? to : k.value));
      const disks = spec.value.disks.map((d) => (d.disk === from.id ? { ...d, disk: to.id } : d));
      if (spec.value.ha.lockstep === true)
        checkShape(
          who,
          shapeBlockers({ ...spec.value, disks }, after, (p) => poolOf(view, p)),
        );
      else if (spec.value.ha.enabled) checkReach(who, after, (p) => poolOf(view, p));
      this.checkRoom(who, own.value.owner, to, pool);
      const args: DiskMoveArgs = {
        disk: from.id,
        to: to.id,
        limitBps: body.limitBps ?? null,
        where: placeText(pool, to),
      };
      const op = newOp(deps, {
        id: opId,
        kind: 'vm.move-disk',
        subject: { kind: 'vm', id, name: spec.value.name },
        node: null,
        who: ask.who,
        args: { ...args, request: mark },
      });
      const change = new Change()
        .at(kinds.vmSpec.key(id), spec)
        .at(kinds.vmOwn.key(id), own)
        .at(kinds.disk.key(from.id), kept)
        .at(kinds.disk.key(to.id), null)
        .at(kinds.op.key(opId), null)
        .put(kinds.disk, to.id, to)
        .put(kinds.op, opId, op);
      const record = view.ledger.tables.pool.get(pool.id);
      if (record !== undefined) change.refersTo(kinds.pool.key(pool.id), record);
      if (isReplicated(to)) await this.pairs.add(change, own, spec.value, [to]);
      return { change, answer: () => ({ op, vmId: id }) };
    });
  }

  /** @throws FlotillaError `no-node-fits`, `no-space` */
  private checkRoom(who: string, owner: string, to: Disk, pool: Pool): void {
    const node = this.deps.view.clusterNodes().find((n) => n.id === owner);
    // Of a silent owner nothing is known; it will say by itself what it cannot do.
    if (node === undefined || node.presence !== 'here') return;
    const disk = { name: to.name, pool, sizeBytes: to.sizeBytes, replicated: isReplicated(to), image: null };
    const reasons = refusals(
      { cpus: 0, memoryMiB: 0, node: null, networks: [], isos: [], disks: [disk] },
      { ...node, desired: 'active' },
    ).filter((r) => !['no-memory', 'no-cpus', 'unwell'].includes(r.reason));
    if (reasons.length > 0)
      throw refusal(`A disk of ${who} does not fit there on its owner`, [{ node: owner, reasons }]);
  }
}

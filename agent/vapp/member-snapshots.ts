import { newSnapshot } from '../../core/decide/vm-snapshot.js';
import { FlotillaError } from '../../core/domain/error.js';
import { queuedOp, type Op } from '../../core/domain/op.js';
import type { VappFrom } from '../../core/domain/vapp.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';

/**
 * Asks the owner of a VM for the snapshot that a member is to begin as, in a transaction that is being put together.
 *
 * @param op - what it is for, and what it goes with where it is of no template
 * @param template - that it is the data of
 * @throws FlotillaError `wrong-state`, `ledger-full`: none can be taken
 */
export function askSnapshot(
  env: AgentEnv,
  from: VappFrom,
  op: Op,
  s: Snapshot,
  compare: Compare[],
  writes: Write[],
  template?: string,
): void {
  const spec = s.specs.get(from.vm);
  const own = s.owns.get(from.vm);
  if (spec === undefined || own === undefined)
    throw new FlotillaError('not-found', 'The VM to be snapshotted is gone', {
      hint: 'See flotilla vm list.',
    });
  const taken = newSnapshot(
    {
      spec: spec.value,
      own: own.value,
      disks: [...s.disks.values()].map((k) => k.value).filter((d) => d.vm === from.vm),
      pool: (p) => s.pools.get(p)?.value,
      snapshots: [...s.vmSnapshots.values()].map((k) => k.value).filter((y) => y.vm === from.vm),
    },
    {
      id: from.snapshot,
      name: `${op.kind} ${op.id.slice(0, 8)}`,
      note: `For "${op.subject.name}"`,
      consistency: 'auto',
      keptFor: [],
      nowMs: env.clock.wallMs(),
      newId: () => env.random.uuid(),
    },
  );
  const x = template === undefined ? { ...taken, forOp: op.id } : { ...taken, template };
  const made = queuedOp(
    {
      id: env.random.uuid(),
      kind: 'vm.snapshot',
      subject: { kind: 'vm', id: from.vm, name: spec.value.name },
      node: own.value.owner,
      askedBy: `${op.kind} of ${op.subject.name}`,
      args: { snapshot: x.id, before: null, for: op.id },
    },
    env.clock.wallMs(),
  );
  compare.push(
    { key: kinds.vmSpec.key(from.vm), modRevision: spec.modRevision },
    { key: kinds.vmOwn.key(from.vm), modRevision: own.modRevision },
    { key: kinds.vmSnapshot.key(x.id), modRevision: 0n },
    { key: kinds.op.key(made.id), modRevision: 0n },
  );
  writes.push(
    { put: kinds.vmSnapshot.key(x.id), value: writeRecord(kinds.vmSnapshot, x) },
    { put: kinds.op.key(made.id), value: writeRecord(kinds.op, made) },
  );
}

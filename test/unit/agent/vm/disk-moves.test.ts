import t from 'tap';
import type { Disk } from '../../../../core/domain/disk.js';
import { queuedOp, type Op } from '../../../../core/domain/op.js';
import type { AgentEnv } from '../../../../agent/env.js';
import type { OpBook } from '../../../../agent/op-book.js';
import type { Snapshot } from '../../../../agent/snapshot.js';
import { DiskMoves } from '../../../../agent/vm/disk-moves.js';
import { Turns } from '../../../../agent/vm/turns.js';

const id = (n: number): string => `00000000-0000-4000-8000-00000000000${n}`;
const disk = (n: number, o: Partial<Disk> = {}): Disk => ({
  id: id(n),
  name: 'root',
  vm: id(1),
  pool: id(9),
  node: 'n1',
  format: 'raw',
  sizeBytes: 2 ** 30,
  madeBytes: 2 ** 30,
  source: { kind: 'blank' },
  state: 'ready',
  error: null,
  ...o,
});
const op: Op = queuedOp(
  {
    id: id(4),
    kind: 'vm.move-disk',
    subject: { kind: 'vm', id: id(1), name: 'web' },
    node: null,
    askedBy: 'admin',
    args: { disk: id(2), to: id(3), limitBps: null, where: 'pool "fast"' },
  },
  1,
);

void t.test('nothing is copied to the new volume any more once the move has ended', async (t) => {
  const kept = <T>(value: T): { value: T; modRevision: bigint } => ({ value, modRevision: 1n });
  // What a pass goes by that began before the move ended.
  const seen = {
    ops: new Map([[op.id, kept(op)]]),
    specs: new Map([
      [id(1), kept({ name: 'web', power: 'stopped', disks: [{ disk: id(2), bus: 'virtio' }] })],
    ]),
    owns: new Map([[id(1), kept({ owner: 'n1', state: 'stopped', gen: 3 })]]),
    disks: new Map([
      [id(2), kept(disk(2))],
      [id(3), kept(disk(3, { instead: id(2) }))],
    ]),
    pools: new Map([[id(9), kept({ id: id(9), kind: 'local' })]]),
    replicas: new Map(),
    meta: kept({ epoch: 1 }),
  } as unknown as Snapshot;
  let copies = 0;
  const env = {
    node: 'n1',
    clock: { nowMs: () => 60_000, sleep: async () => undefined },
    live: { compare: () => ({ key: 'live' }) },
    log: { warn: () => undefined },
    volumes: { diskPath: () => '/x', openDisk: async () => undefined, copyDisk: async () => void copies++ },
    ledger: { get: async () => null },
  } as unknown as AgentEnv;
  const looked = (state: Op['state']): Promise<void> =>
    new Promise((resolve) => {
      const moves = new DiskMoves(env, {
        ops: { latest: async () => kept({ ...op, state }), progress: () => undefined } as unknown as OpBook,
        turns: new Turns(() => undefined),
        replicas: { whileOpen: async (_vm, _signal, work) => work() },
        wake: resolve,
      });
      moves.look(seen, new Map());
    });
  await looked('running');
  t.equal(copies, 1, 'one that goes on is copied');
  await looked('done');
  t.equal(copies, 1);
});

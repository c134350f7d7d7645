import t from 'tap';
import type { Disk } from '../../../../core/domain/disk.js';
import { ledger as kinds, writeRecord } from '../../../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../../../../agent/env.js';
import type { OpBook } from '../../../../agent/op-book.js';
import type { Snapshot } from '../../../../agent/snapshot.js';
import { DiskMaker } from '../../../../agent/vm/disk-maker.js';
import { FakeClock } from '../ledger/fake-clock.js';
import { MemoryLedger } from '../../../sim/memory-ledger.js';

const id = (n: number): string => `00000000-0000-4000-8000-00000000000${n}`;
const wanted: Disk = {
  id: id(1),
  name: 'root',
  vm: id(2),
  pool: id(3),
  node: null,
  format: 'raw',
  replicas: 2,
  sizeBytes: 2 ** 30,
  madeBytes: 0,
  source: { kind: 'image', image: id(4), mode: 'full' },
  state: 'wanted',
  error: null,
};

void t.test('a disk that was made since it was looked at is not written over', async (t) => {
  const memory = new MemoryLedger(new FakeClock());
  const ledger = memory.client('n1');
  const key = kinds.disk.key(wanted.id);
  memory.poke(key, writeRecord(kinds.disk, wanted));
  const modRevision = (await ledger.get(key))?.modRevision ?? 0n;
  // What a pass goes by that began before the first making ended.
  const seen = {
    disks: new Map([[wanted.id, { value: wanted, modRevision }]]),
    pools: new Map([[wanted.pool, { value: { id: wanted.pool } }]]),
    images: new Map([[id(4), { value: { id: id(4), pool: wanted.pool } }]]),
  } as unknown as Snapshot;
  let filled = 0;
  const done: (() => void)[] = [];
  const env = { ledger, log: { error: (m: string) => t.fail(m) } } as unknown as AgentEnv;
  const maker = new DiskMaker(
    env,
    {} as OpBook,
    { paired: () => true, fill: async () => void filled++ },
    () => done.shift()?.(),
  );
  const made = (): Promise<void> =>
    new Promise((resolve) => {
      done.push(resolve);
      maker.make(wanted, seen, undefined);
    });
  await made();
  t.match(JSON.parse((await ledger.get(key))?.value ?? ''), { state: 'ready' });
  await made();
  t.equal(filled, 1);
  t.match(JSON.parse((await ledger.get(key))?.value ?? ''), { state: 'ready' });
});

void t.test(
  'its VM goes to another node meanwhile: the making ends, and the record is left to that one',
  async (t) => {
    const memory = new MemoryLedger(new FakeClock());
    const ledger = memory.client('n1');
    const disk: Disk = { ...wanted, replicas: 1 };
    const key = kinds.disk.key(disk.id);
    memory.poke(key, writeRecord(kinds.disk, disk));
    const modRevision = (await ledger.get(key))?.modRevision ?? 0n;
    const seen = (owner: string): Snapshot =>
      ({
        disks: new Map([[disk.id, { value: disk, modRevision }]]),
        pools: new Map([[disk.pool, { value: { id: disk.pool } }]]),
        images: new Map([[id(4), { value: { id: id(4), pool: disk.pool } }]]),
        owns: new Map([[disk.vm, { value: { owner } }]]),
        ops: new Map(),
      }) as unknown as Snapshot;
    let begun = (): void => undefined;
    const began = new Promise<void>((resolve) => (begun = resolve));
    const makeDisk: AgentEnv['volumes']['makeDisk'] = (_disk, _pool, _from, o) =>
      new Promise((_, reject) => {
        o.signal.addEventListener('abort', () => reject(new Error('ended')));
        begun();
      });
    const env = { node: 'n1', ledger, volumes: { makeDisk }, log: { error: (m: string) => t.fail(m) } };
    let ended = (): void => undefined;
    const end = new Promise<void>((resolve) => (ended = resolve));
    const maker = new DiskMaker(
      env as unknown as AgentEnv,
      {} as OpBook,
      { paired: () => true, fill: () => Promise.reject(new Error('it has one copy')) },
      () => ended(),
    );
    maker.make(disk, seen('n1'), undefined);
    await began;
    maker.look(seen('n1'));
    t.ok(maker.making([disk]), 'it goes on while the VM is here');
    maker.look(seen('n2'));
    await end;
    t.same(JSON.parse((await ledger.get(key))?.value ?? ''), JSON.parse(writeRecord(kinds.disk, disk)));
  },
);

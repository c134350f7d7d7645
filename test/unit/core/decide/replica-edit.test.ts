import t from 'tap';
import { copyAddresses, newReplica } from '../../../../core/decide/replica-edit.js';
import type { Disk } from '../../../../core/domain/disk.js';
import { minorRange, portRange, replicaSchema } from '../../../../core/domain/replica.js';

const vm = '11111111-1111-4111-8111-111111111111';
const pool = '33333333-3333-4333-8333-333333333333';
const disk = (n: number, replicas?: 1 | 2): Disk => ({
  id: `22222222-2222-4222-8222-22222222222${n}`,
  name: `d${n}`,
  vm,
  pool,
  ...(replicas === undefined ? {} : { replicas }),
  node: null,
  format: 'raw',
  sizeBytes: 1 << 30,
  madeBytes: 0,
  source: { kind: 'blank' },
  state: 'wanted',
  error: null,
});
const a = { id: 'n1', addresses: ['10.0.0.1', '10.9.0.1', '10.7.0.1'] };
const b = { id: 'n2', addresses: ['10.0.0.2', '10.7.0.2'] };
const ask = {
  vm,
  disks: [disk(0, 2), disk(1), disk(2, 2)],
  nodes: [a, b] as const,
  secret: '0123456789abcdef0123456789abcdef',
  taken: { minors: new Set<number>(), ports: new Set<number>() },
};

void t.test('numbers that nobody has, volumes of the disks with two copies', async (t) => {
  const r = newReplica(ask);
  t.ok(replicaSchema.safeParse(r).success);
  t.match(r, {
    port: portRange.first,
    nodes: [{ node: 'n1' }, { node: 'n2' }],
    volumes: [
      { volume: 0, minor: minorRange.first, disk: disk(0).id },
      { volume: 1, minor: minorRange.first + 1, disk: disk(2).id },
    ],
  });
  t.equal(r?.volumes[0]?.below, `/dev/flotilla-33333333/d-${disk(0).id}`);
  const next = newReplica({
    ...ask,
    taken: { minors: new Set([minorRange.first, minorRange.first + 2]), ports: new Set([portRange.first]) },
  });
  t.equal(next?.port, portRange.first + 1);
  t.same(
    next?.volumes.map((v) => v.minor),
    [minorRange.first + 1, minorRange.first + 3],
  );
  t.equal(newReplica({ ...ask, disks: [disk(1)] }), null);
  const all = new Set(
    Array.from({ length: portRange.last - portRange.first + 1 }, (_, i) => portRange.first + i),
  );
  t.throws(() => newReplica({ ...ask, taken: { ...ask.taken, ports: all } }), { code: 'no-node-fits' });
});

void t.test('blocks go over a network of their own where both nodes have one', async (t) => {
  t.same(copyAddresses(a, b), ['10.7.0.1', '10.7.0.2']);
  t.same(copyAddresses(a, { id: 'n3', addresses: ['10.0.0.3'] }), ['10.0.0.1', '10.0.0.3']);
  t.same(copyAddresses(a, { id: 'n3', addresses: ['10.0.0.3', '192.168.0.3'] }), ['10.0.0.1', '10.0.0.3']);
});

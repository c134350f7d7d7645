import t from 'tap';
import {
  placementPolicy,
  refusals,
  reserveMiB,
  type PlacementNode,
  type PlacementRequest,
} from '../../../../../core/decide/plan/fit.js';
import type { Image } from '../../../../../core/domain/image.js';
import type { Pool } from '../../../../../core/domain/pool.js';

const GiB = 2 ** 30;
const pool = (name: string, nodes: string[] | null = null): Pool => ({
  id: name,
  name,
  kind: 'local',
  path: '/p',
  nodes,
  reservePct: 5,
});
const local = pool('local');

function node(id: string, o: Partial<PlacementNode> = {}): PlacementNode {
  return {
    id,
    presence: 'here',
    desired: 'active',
    witness: false,
    cpus: 8,
    memoryBytes: 16 * GiB,
    committedCpus: 0,
    committedMemoryMiB: 0,
    vms: 0,
    pools: [{ pool: 'local', totalBytes: 100 * GiB, freeBytes: 50 * GiB, ok: true, text: '' }],
    health: [],
    ...o,
  };
}

const request = (o: Partial<PlacementRequest> = {}): PlacementRequest => ({
  cpus: 1,
  memoryMiB: 1024,
  disks: [],
  isos: [],
  networks: [],
  node: null,
  ...o,
});

function image(o: Partial<Image>): Image {
  return {
    id: 'i',
    name: 'debian',
    pool: 'local',
    node: 'a',
    state: 'ready',
    format: 'qcow2',
    expectedBytes: null,
    sizeBytes: GiB,
    virtualSizeBytes: 2 * GiB,
    sha256: null,
    source: null,
    createdMs: 0,
    error: null,
    ...o,
  };
}

const reasonsOf = (r: PlacementRequest, n: PlacementNode): string[] => refusals(r, n).map((x) => x.reason);

void t.test('each reason by itself', (t) => {
  const cases: [string, PlacementRequest, Partial<PlacementNode>, string[]][] = [
    ['fits', request(), {}, []],
    ['another was asked for', request({ node: 'b' }), {}, ['not-asked']],
    ['silent', request(), { presence: 'silent' }, ['not-here']],
    ['suspected', request(), { presence: 'suspect' }, ['not-here']],
    ['in maintenance', request(), { desired: 'maintenance' }, ['not-active']],
    ['a witness', request(), { witness: true }, ['witness']],
    ['leaving', request(), { desired: 'leaving' }, ['not-active']],
    [
      'its hypervisor is down',
      request(),
      { health: [{ part: 'hypervisor', ok: false, text: 'x' }] },
      ['unwell'],
    ],
    ['its ledger client hiccups', request(), { health: [{ part: 'ledger', ok: false, text: 'x' }] }, []],
    [
      'a network it cannot make',
      request({ networks: [{ name: 'lan' }] }),
      { health: [{ part: 'network', ok: false, text: 'lan: no uplink' }] },
      ['unwell'],
    ],
    [
      'one MiB too much',
      request({ memoryMiB: 16 * 1024 - reserveMiB(16 * GiB, placementPolicy) - 64 + 1 }),
      {},
      ['no-memory'],
    ],
    ['all of it', request({ memoryMiB: 16 * 1024 - reserveMiB(16 * GiB, placementPolicy) - 64 }), {}, []],
    ['more vCPUs than CPUs', request({ cpus: 9 }), {}, ['no-cpus']],
    ['too many promised', request(), { committedCpus: 8 * 16 }, ['no-cpus']],
    ['two at once', request({ cpus: 9, memoryMiB: 99_999 }), {}, ['no-memory', 'no-cpus']],
  ];
  for (const [what, r, o, want] of cases) t.same(reasonsOf(r, node('a', o)), want, what);
  t.end();
});

void t.test('pools and images', (t) => {
  const disk = (sizeBytes: number, o: object = {}) => ({
    name: 'd',
    pool: local,
    sizeBytes,
    image: null,
    ...o,
  });
  const with1 = (d: ReturnType<typeof disk>) => request({ disks: [d] });
  t.same(reasonsOf(with1(disk(GiB)), node('a')), []);
  t.match(refusals(with1(disk(10 * 1024 * GiB)), node('a')), [
    { reason: 'no-space', text: 'disk "d" of 10 TiB is larger than the pool "local" (100 GiB)' },
  ]);
  t.same(reasonsOf(with1(disk(GiB, { pool: pool('fast', ['b']) })), node('a')), ['no-pool']);
  t.same(reasonsOf(with1(disk(GiB, { pool: pool('new') })), node('a')), ['pool-unwell']);
  const from = (i: Image, mode: 'full' | 'linked', sourceHere: boolean) =>
    disk(2 * GiB, { image: { image: i, pool: local, mode, sourceHere } });
  t.same(reasonsOf(with1(from(image({}), 'full', true)), node('a')), []);
  t.same(reasonsOf(with1(from(image({}), 'full', true)), node('b')), [], 'a peer sends it');
  t.same(reasonsOf(with1(from(image({}), 'full', false)), node('b')), ['image-out-of-reach']);
  const iso = (pool: Pool, sourceHere: boolean) =>
    request({ isos: [{ image: image({ format: 'iso' }), pool, sourceHere }] });
  t.same(reasonsOf(iso(local, true), node('b')), [], 'an ISO, too');
  t.same(reasonsOf(iso(local, false), node('b')), ['image-out-of-reach']);
  t.same(reasonsOf(iso(pool('fast', ['a']), true), node('b')), ['image-out-of-reach']);
  const big = image({ sizeBytes: 40 * GiB });
  t.same(reasonsOf(with1(from(big, 'full', true)), node('a')), [], 'one copy fits');
  t.same(
    reasonsOf(with1(from(big, 'full', true)), node('b')),
    ['no-space'],
    'fetched and copied it does not',
  );
  t.same(reasonsOf(with1(from(big, 'linked', true)), node('b')), [], 'linked it is only fetched');
  t.end();
});

import t from 'tap';
import type { NodeDrive } from '../../../core/domain/node.js';
import { rig } from './rig.js';

const drive = (o: Partial<NodeDrive>): NodeDrive => ({
  device: '/dev/sdb',
  serial: 'S1',
  model: 'Fast',
  sizeBytes: 1e12,
  use: 'empty',
  text: '',
  health: null,
  ...o,
});

void t.test('a pool of drives: only of those that are there and empty, or may be wiped', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const n1 = r.radio.nodes.get('n1');
  if (n1 === undefined) return t.fail();
  n1.state = {
    ...n1.state,
    drives: [
      drive({}),
      drive({ device: '/dev/sdc', serial: 'S2', use: 'data', text: 'has a partition table (gpt)' }),
      drive({ device: '/dev/sda', serial: 'S0', use: 'system', text: 'mounted at /' }),
    ],
  };
  r.radio.news();
  const create = (drives: object[] | undefined, more: object = {}) =>
    r.call('POST', '/api/v1/pools', {
      name: 'fast',
      kind: 'thin',
      ...(drives === undefined ? {} : { drives }),
      ...more,
    });
  const on = (d: string, wipe = false): object => ({ node: 'n1', drive: d, wipe });
  const refused: [string, Promise<{ status: number; body: unknown }>, object][] = [
    ['without drives', create(undefined), { code: 'bad-input' }],
    ['with a path', create([on('S1')], { path: '/srv/x' }), { code: 'bad-input' }],
    ['twice the same', create([on('S1'), on('S1')]), { code: 'bad-input' }],
    ['one that is not there', create([on('S9')]), { code: 'not-found' }],
    ['with data', create([on('S2')]), { code: 'drive-has-data', message: /partition table/ }],
    ['the system’s, whatever is said', create([on('S0', true)]), { code: 'drive-has-data' }],
    ['of a node that there is not', create([{ node: 'n9', drive: 'S1' }]), { code: 'not-found' }],
    ['a hostile name', create([on('../sda')]), { code: 'bad-input' }],
    [
      'drives for a directory',
      r.call('POST', '/api/v1/pools', { name: 'x', kind: 'local', path: '/x', drives: [on('S1')] }),
      { code: 'bad-input' },
    ],
    [
      'a directory without a path',
      r.call('POST', '/api/v1/pools', { name: 'x', kind: 'local' }),
      { code: 'bad-input' },
    ],
  ];
  for (const [name, answer, like] of refused) t.match((await answer).body, like, name);

  const made = await create([on('S1')]);
  t.equal(made.status, 201);
  t.match(made.body, { kind: 'thin', nodes: ['n1'], path: /^\/dev\/flotilla-[0-9a-f]{8}$/ });
  const again = await create([on('S1')], { name: 'other' });
  t.match(again.body, { code: 'in-use' });
  const add = (wipe: boolean) => r.call('PATCH', '/api/v1/pools/fast', { addDrives: [on('S2', wipe)] });
  t.match((await add(false)).body, { code: 'drive-has-data' });
  t.match((await add(true)).body, { drives: [{ drive: 'S1' }, { drive: 'S2', wipe: true }] });
  t.match((await r.call('PATCH', '/api/v1/pools/fast', { nodes: null })).body, { code: 'bad-input' });
  t.match((await r.call('POST', '/api/v1/images', { name: 'i', pool: 'fast' })).body, {
    code: 'unsupported',
  });
});

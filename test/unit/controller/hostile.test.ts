import t from 'tap';
import type { Problem } from '../../../core/wire/rest.js';
import { errorStatus } from '../../../core/domain/error.js';
import { callApp, GiB, rig } from './rig.js';

const MiB = 2 ** 20;

void t.test(
  'bad input: every refusal names the object, the reason and the way out, and changes nothing',
  async (t) => {
    const r = await rig();
    t.teardown(() => r.stop());
    await r.call('POST', '/api/v1/networks', { name: 'lan', bridge: 'lan0', subnet: '10.0.0.0/24' });
    await r.call('POST', '/api/v1/vms', { name: 'Caf\u00e9' });
    const before = r.memory.revision;
    const vm = (o: object): [string, string, unknown] => ['POST', '/api/v1/vms', { name: 'x', ...o }];
    const cases: [string, [string, string, unknown?], number, string][] = [
      ['negative memory', vm({ memoryMiB: -1 }), 400, 'bad-input'],
      ['memory of no number', vm({ memoryMiB: '1G' }), 400, 'bad-input'],
      ['endless memory', vm({ memoryMiB: 1e300 }), 400, 'bad-input'],
      ['half a CPU', vm({ cpus: 0.5 }), 400, 'bad-input'],
      ['no CPU', vm({ cpus: 0 }), 400, 'bad-input'],
      ['more CPUs than any node', vm({ cpus: 256 }), 409, 'no-node-fits'],
      ['more memory than any node', vm({ memoryMiB: 1024 * 1024 }), 409, 'no-node-fits'],
      ['a disk of negative size', vm({ disks: [{ sizeBytes: -GiB }] }), 400, 'bad-input'],
      ['a disk of one byte', vm({ disks: [{ sizeBytes: 1 }] }), 400, 'bad-input'],
      ['10 TB on a pool of 100 GB', vm({ disks: [{ sizeBytes: 10 * 1024 * GiB }] }), 507, 'no-space'],
      ['a disk beyond all sizes', vm({ disks: [{ sizeBytes: 2 ** 60 }] }), 400, 'bad-input'],
      ['a disk without size', vm({ disks: [{}] }), 400, 'bad-input'],
      [
        'two disks of one name',
        vm({
          disks: [
            { name: 'a', sizeBytes: MiB },
            { name: 'a', sizeBytes: MiB },
          ],
        }),
        409,
        'name-taken',
      ],
      [
        'a hundred disks',
        vm({ disks: Array.from({ length: 100 }, () => ({ sizeBytes: MiB })) }),
        400,
        'bad-input',
      ],
      ['an unknown pool', vm({ disks: [{ sizeBytes: MiB, pool: 'nope' }] }), 404, 'not-found'],
      ['an unknown image', vm({ disks: [{ image: 'nope' }] }), 404, 'not-found'],
      ['an unknown network', vm({ nics: [{ network: 'nope' }] }), 404, 'not-found'],
      ['an unknown node', vm({ node: 'n9' }), 404, 'not-found'],
      ['an address outside', vm({ nics: [{ network: 'lan', address: '192.168.0.1' }] }), 400, 'bad-input'],
      ['a multicast MAC', vm({ nics: [{ network: 'lan', mac: '01:00:00:00:00:01' }] }), 400, 'bad-input'],
      ['an unknown field', vm({ memory: 7 }), 400, 'unknown-field'],
      ['an unknown field below', vm({ disks: [{ sizeBytes: MiB, wat: 1 }] }), 400, 'unknown-field'],
      [
        'a prototype as a field',
        ['POST', '/api/v1/vms', '{"name":"x","__proto__":{"cpus":64}}'],
        400,
        'unknown-field',
      ],
      ['an empty name', vm({ name: '' }), 400, 'bad-input'],
      ['a name of 1 MB', vm({ name: 'n'.repeat(MiB - 100) }), 400, 'bad-input'],
      ['a body above the limit', vm({ name: 'n'.repeat(2 * MiB) }), 413, 'too-large'],
      ['the same name in another spelling', vm({ name: 'CAFE\u0301' }), 409, 'name-taken'],
      ['a name of control characters', vm({ name: 'a\u0000b\u001b[2J' }), 400, 'bad-input'],
      ['a name that turns the text round', vm({ name: 'a\u202eb' }), 400, 'bad-input'],
      ['a name like a path', vm({ name: '../../etc/passwd' }), 400, 'bad-input'],
      ['a note of 1 MB', vm({ note: 'n'.repeat(900_000) }), 400, 'bad-input'],
      ['user-data beyond a record', vm({ cloudInit: { userData: 'u'.repeat(40_000) } }), 400, 'bad-input'],
      [
        'a record beyond the ledger',
        vm({ cloudInit: { userData: '\u4e2d'.repeat(32_000) } }),
        413,
        'too-large',
      ],
      ['a list for an object', ['POST', '/api/v1/vms', []], 400, 'bad-input'],
      ['null', ['POST', '/api/v1/vms', null], 400, 'bad-input'],
      ['no JSON', ['POST', '/api/v1/vms', '{"name":'], 400, 'bad-input'],
      ['nested without end', ['POST', '/api/v1/vms', '['.repeat(400_000)], 400, 'bad-input'],
      ['a path out of the tree', ['GET', '/api/v1/vms/..%2f..%2fetc%2fpasswd'], 400, 'bad-input'],
      ['a path with a null', ['GET', '/api/v1/vms/%00'], 400, 'bad-input'],
      ['a path of nonsense encoding', ['GET', '/api/v1/vms/%ff%fe'], 404, 'not-found'],
      ['a prototype as an id', ['GET', '/api/v1/vms/__proto__'], 404, 'not-found'],
      ['an action that is none', ['POST', '/api/v1/vms/x/actions/explode'], 400, 'bad-input'],
      ['an op id that is none', ['GET', '/api/v1/ops/7'], 400, 'bad-input'],
      [
        'a subnet with host bits',
        ['POST', '/api/v1/networks', { name: 'n', bridge: 'b0', subnet: '10.0.0.5/24' }],
        400,
        'bad-input',
      ],
      [
        'a range outside',
        [
          'POST',
          '/api/v1/networks',
          { name: 'n', bridge: 'b0', subnet: '10.0.0.0/24', range: ['10.0.1.1', '10.0.1.2'] },
        ],
        400,
        'bad-input',
      ],
      [
        'a bridge of spaces',
        ['POST', '/api/v1/networks', { name: 'n', bridge: 'b 0; rm -rf /' }],
        400,
        'bad-input',
      ],
      [
        'a pool path with ..',
        ['POST', '/api/v1/pools', { name: 'p', kind: 'local', path: '/a/../etc' }],
        400,
        'bad-input',
      ],
      [
        'a pool on no node',
        ['POST', '/api/v1/pools', { name: 'p', kind: 'local', path: '/p', nodes: ['n9'] }],
        404,
        'not-found',
      ],
      [
        'a local file as URL',
        ['POST', '/api/v1/images', { name: 'i', url: 'file:///etc/shadow' }],
        400,
        'bad-input',
      ],
      [
        'an image larger than the pool',
        ['POST', '/api/v1/images', { name: 'i', sizeBytes: 90 * GiB }],
        507,
        'no-space',
      ],
      ['no such route', ['GET', '/api/v1/wat'], 404, 'not-found'],
    ];
    for (const [what, [method, path, body], status, code] of cases) {
      const text = typeof body === 'string' ? { 'content-type': 'application/json' } : {};
      const answer = await r.call(method, path, body, text);
      const p = answer.body as Problem;
      t.match({ status: answer.status, code: p.code }, { status, code }, what);
      t.match(answer.headers.get('content-type'), /problem\+json/, `${what}: as problem+json`);
      t.ok(p.message.length > 0 && p.message.length < 2_000, `${what}: in words, and not the input again`);
      t.ok(p.hint.length > 0, `${what}: with a way out`);
      t.equal(p.status, errorStatus[p.code]);
    }
    t.equal(r.memory.revision, before, 'nothing was written');
  },
);

void t.test('an expired token, one taken back, and a request from another site', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  const made = await r.call('POST', '/api/v1/tokens', { name: 'short', kind: 'api', ttlS: 3600 });
  const { token, id, sha256 } = made.body as { token: string; id: string; sha256?: string };
  t.equal(sha256, undefined);
  t.equal((await callApp(r.app, token, 'GET', '/api/v1/cluster')).status, 200);
  const list = JSON.stringify((await r.call('GET', '/api/v1/tokens')).body);
  t.notMatch(list, token.split('.')[2] ?? 'x');
  t.notMatch(list, /sha256/);
  const key = `/flotilla/token/${id}`;
  const record = JSON.parse(r.memory.peek(key)?.value ?? '{}') as object;
  r.memory.poke(key, JSON.stringify({ ...record, expiresMs: 1000 }));
  await r.view.ledger.refresh('token');
  t.match(await callApp(r.app, token, 'GET', '/api/v1/cluster'), {
    status: 403,
    body: { code: 'token-expired' },
  });
  t.equal((await r.call('DELETE', '/api/v1/tokens/short')).status, 204);
  t.match(await callApp(r.app, token, 'GET', '/api/v1/cluster'), {
    status: 403,
    body: { code: 'token-unknown' },
  });
  const join = await r.call('POST', '/api/v1/tokens', { name: 'j', kind: 'join' });
  t.match(
    (join.body as { token: string }).token,
    /^flt1\.10\.0\.0\.1\.[a-z0-9]{8}\.[\w-]{43}\.[0-9a-f]{64}$/,
  );
  t.match(join.body, { usesLeft: 1 });
  const foreign = await r.call('POST', '/api/v1/vms', { name: 'v' }, { 'sec-fetch-site': 'same-site' });
  t.match(foreign, { status: 403, body: { code: 'forbidden' } });
});

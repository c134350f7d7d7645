import t from 'tap';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { makeCa, makeCsr, signNode } from '../../../../agent/pki/certificates.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { errorRecord } from '../../../../core/domain/error.js';
import { fencingDeviceSchema } from '../../../../core/domain/fencing.js';
import { until } from '../ledger/real-etcd.js';
import { RedfishBmc } from './redfish-bmc.js';
import { descendants, isAlive, Programs } from './rig.js';

/** Debian's fence_redfish against a Redfish service over HTTPS. */

const password = ' "a\\b" #c=d e ';
const pki = await mkdtemp(path.join(tmpdir(), 'flotilla-test-'));
const wallMs = Date.now();
const keyFile = path.join(pki, 'ca.key');
await ensurePrivateKey(keyFile);
const ca = {
  keyFile,
  cert: await makeCa({ clusterId: '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e12', keyFile, wallMs }),
};
const key = await ensurePrivateKey(path.join(pki, 'bmc.key'));
const csr = await makeCsr({ keyFile: path.join(pki, 'bmc.key'), commonName: 'bmc' });
const cert = await signNode(ca, csr, { node: 'bmc', addresses: ['127.0.0.1'] }, wallMs);

const programs = await (await Programs.make()).start();
const { fence } = programs;
const bmc = new RedfishBmc({ key, cert, user: 'flotilla', password });
const port = await bmc.start();
t.teardown(async () => {
  await bmc.stop();
  await programs.stop();
  await rm(pki, { recursive: true, force: true });
});

const device = fencingDeviceSchema.parse({
  kind: 'redfish',
  address: '127.0.0.1',
  port,
  user: 'flotilla',
  password,
});
if (device.kind !== 'redfish') throw new Error('unreachable');
const soon = { deadlineMs: 30_000 };

t.beforeEach(() => bmc.reset());

await t.test('a node that is on is powered off, and the BMC says so', async (t) => {
  t.same(await fence.status(device, soon), { kind: 'answers', power: 'on' });
  t.same(await fence.off(device, soon), { kind: 'confirmed-off' });
  t.equal(bmc.systems.get('1'), 'Off');
  t.same(bmc.orders, ['1 ForceOff']);
  t.same(await fence.status(device, soon), { kind: 'answers', power: 'off' });
  t.same(await fence.off(device, soon), { kind: 'confirmed-off' }, 'again');
});

await t.test(
  'a node that is off is powered on, and the BMC says so; one that stays off is not confirmed',
  async (t) => {
    bmc.systems.set('1', 'Off');
    t.same(await fence.on(device, soon), { kind: 'confirmed-on' });
    t.equal(bmc.systems.get('1'), 'On');
    t.same(bmc.orders, ['1 On']);
    t.same(await fence.on(device, soon), { kind: 'confirmed-on' }, 'again');
    bmc.systems.set('1', 'Off');
    bmc.stuck = true;
    t.match(await fence.on(device, { deadlineMs: 10_000 }), { kind: 'not-confirmed' });
  },
);

await t.test('it says which machine it belongs to, and hears no order', async (t) => {
  t.same(await fence.identify(device, soon), { kind: 'answers', uuid: null });
  bmc.uuid = '4C4C4544-0031-5610-8052-B4C04F4E3332';
  t.same(await fence.identify(device, soon), { kind: 'answers', uuid: bmc.uuid });
  t.same(bmc.orders, []);
  t.match(await fence.identify({ ...device, password: 'wrong' }, soon), {
    kind: 'no-answer',
    error: { code: 'fence-failed', hint: /user(,| and) password/ },
  });
});

await t.test('a BMC that says yes while the node stays on is not believed', async (t) => {
  bmc.stuck = true;
  const r = await fence.off(device, { deadlineMs: 8_000 });
  t.match(r, { kind: 'not-confirmed', error: { code: 'fence-failed', hint: /by hand/ } });
  t.same(bmc.orders, ['1 ForceOff']);
});

await t.test('power that comes back after it was off is not confirmed', async (t) => {
  bmc.comesBack = true;
  t.match(await fence.off(device, soon), {
    kind: 'not-confirmed',
    error: { code: 'fence-failed', message: /the power is on/ },
  });
});

await t.test('a wrong password confirms nothing and is not repeated to anybody', async (t) => {
  bmc.systems.set('1', 'Off');
  for (const systemUri of [null, '/redfish/v1/Systems/1']) {
    const bad = { ...device, password: 'Wr0ng, "really"', systemUri };
    const off = await fence.off(bad, soon);
    t.match(off, { kind: 'not-confirmed', error: { code: 'fence-failed', hint: /user(,| and) password/ } });
    const status = await fence.status(bad, soon);
    t.match(status, { kind: 'no-answer', error: { code: 'fence-failed', hint: /user(,| and) password/ } });
    t.notMatch(JSON.stringify([off, status].map((r) => ('error' in r ? errorRecord(r.error) : r))), /Wr0ng/);
  }
  t.same(bmc.orders, []);
});

await t.test('of several systems none is guessed', async (t) => {
  bmc.systems.set('2', 'Off');
  t.match(await fence.off(device, soon), {
    kind: 'not-confirmed',
    error: { code: 'fence-failed', hint: /systemUri/ },
  });
  t.same(bmc.orders, []);
  t.same(await fence.off({ ...device, systemUri: '/redfish/v1/Systems/1' }, soon), { kind: 'confirmed-off' });
  t.same(bmc.orders, ['1 ForceOff']);
  bmc.systems.clear();
  t.match(await fence.status(device, soon), { kind: 'no-answer', error: { code: 'fence-failed' } });
});

await t.test('only the word Off is off', async (t) => {
  for (const state of ['PoweringOff', 'off', '', 'Unknown', 'Paused', null, 0]) {
    bmc.systems.set('1', state);
    bmc.stuck = true;
    t.match(await fence.off(device, { deadlineMs: 4_000 }), { kind: 'not-confirmed' }, JSON.stringify(state));
  }
  bmc.junk = true;
  t.match(await fence.status(device, soon), { kind: 'no-answer', error: { code: 'fence-failed' } });
});

await t.test('a BMC that falls silent is not taken for off, and nothing is left running', async (t) => {
  bmc.systems.set('1', 'Off');
  bmc.silent = true;
  t.match(await fence.off(device, { deadlineMs: 1_000 }), {
    kind: 'not-confirmed',
    error: { code: 'fence-timeout' },
  });
  const before = new Set(descendants().map((p) => p.pid));
  const call = fence.off({ ...device, systemUri: '/redfish/v1/Systems/1' }, { deadlineMs: 4_000 });
  const mine = () => descendants().filter((p) => !before.has(p.pid));
  await until('fence_redfish to ask', () => bmc.waiting > 1);
  const running = mine();
  t.ok(running.some((p) => /fence_redfish/.test(p.text)));
  for (const p of running) t.notOk(p.text.includes(password), `no password to be seen: ${p.pid}`);
  t.match(await call, { kind: 'not-confirmed', error: { code: 'fence-timeout' } });
  await until('all to be killed', () => !running.some((p) => isAlive(p.pid)), 5_000);
});

await t.test('a certificate is checked where that is asked for', async (t) => {
  const checked = { ...device, verifyTls: true, systemUri: '/redfish/v1/Systems/1' };
  for (const systemUri of [null, '/redfish/v1/Systems/1']) {
    t.match(await fence.off({ ...checked, systemUri }, soon), {
      kind: 'not-confirmed',
      error: { code: 'fence-failed', hint: /certificate/ },
    });
  }
  t.same(bmc.orders, []);
  t.equal(bmc.requests, 0, 'no password was sent to who cannot show one');
  for (const systemUri of [null, '/redfish/v1/Systems/1'])
    t.same(await fence.off({ ...checked, systemUri, ca: ca.cert }, soon), { kind: 'confirmed-off' });
});

await t.test('where no BMC is, none answers', async (t) => {
  t.match(await fence.status({ ...device, port: 1 }, soon), {
    kind: 'no-answer',
    error: { code: 'fence-failed', hint: /address and port/ },
  });
  t.match(await readFile(`${programs.dir}/starts`, 'utf8'), /^$/);
});

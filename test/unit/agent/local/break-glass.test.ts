import { readFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { BreakGlass } from '../../../../agent/local/break-glass.js';
import { RecordStore } from '../../../../agent/ledger/records.js';
import { makeCa } from '../../../../agent/pki/certificates.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { hashPassword } from '../../../../agent/pki/password.js';
import { newTotpSecret, totpAt } from '../../../../agent/pki/totp.js';
import { breakGlassMs } from '../../../../core/domain/break-glass.js';
import type { User } from '../../../../core/domain/user.js';
import { breakGlassKey, ledger as kinds, writeRecord } from '../../../../core/wire/ledger-keys.js';
import { FakeClock } from '../../../unit/agent/ledger/fake-clock.js';
import { MemoryLedger } from '../../../sim/memory-ledger.js';

const clusterId = '00000000-0000-4000-8000-0000000000c1';
const dir = t.testdir({});
const wallMs = Date.now();
async function authority(name: string): Promise<{ cert: string; keyFile: string }> {
  const keyFile = path.join(dir, `${name}.key`);
  await ensurePrivateKey(keyFile);
  return { keyFile, cert: await makeCa({ clusterId, keyFile, wallMs }) };
}
const ca = await authority('ca');
const thief = await authority('thief');
const secret = newTotpSecret();
const right = await hashPassword('right-horse-battery');
const user = (n: number, o: Partial<User>): User => ({
  id: `00000000-0000-4000-8000-00000000000${n}`,
  name: 'anna',
  role: 'admin',
  operates: [],
  operatesTags: [],
  operatesVapps: [],
  disabled: false,
  password: right,
  totp: null,
  signOn: null,
  createdMs: 1,
  passwordMs: 1,
  ...o,
});

function stage() {
  const clock = new FakeClock();
  let nowMs = wallMs;
  const memory = new MemoryLedger(clock);
  memory.found(
    { schema: 1, id: clusterId, name: 'test', epoch: 1, ca: ca.cert, foundedMs: 1, founder: 'n1' },
    [],
  );
  const put = (u: User) => memory.poke(kinds.user.key(u.id), writeRecord(kinds.user, u));
  put(user(1, {}));
  put(user(2, { name: 'two', totp: secret }));
  put(user(3, { name: 'otto', role: 'operator' }));
  put(user(4, { name: 'gone', disabled: true }));
  const audit: unknown[] = [];
  const node = (name: string, o: { leads: boolean; caKeyFile?: string }) =>
    new BreakGlass({
      file: path.join(dir, `${name}.json`),
      clusterId,
      ca: () => ca.cert,
      caKeyFile: async () => o.caKeyFile ?? ca.keyFile,
      store: () => new RecordStore(memory.client(name), 1),
      leads: () => o.leads,
      clock: { nowMs: () => nowMs - wallMs, wallMs: () => nowMs, sleep: async () => undefined },
      log: { info: (_, f) => audit.push(f), warn: (_, f) => audit.push(f), error: () => undefined },
    });
  const pass = (ms: number) => (nowMs += ms);
  return { memory, put, node, audit, pass };
}
const ask = (name: string, password = 'right-horse-battery', code: string | null = null) => ({
  user: name,
  password,
  code,
  from: '10.0.0.9',
});

await t.test(
  'the leader signs, another node lets admins in with no ledger at all, after a restart too',
  async (t) => {
    const s = stage();
    await s.node('leader', { leads: true }).look();
    const n2 = s.node('n2', { leads: false, caKeyFile: '/none' });
    await n2.look();
    t.same(
      n2.list?.accounts.map((a) => a.name),
      ['anna', 'two'],
      'admins that are not disabled',
    );
    s.memory.quorum = false;
    const again = s.node('n2', { leads: false, caKeyFile: '/none' });
    await again.load();
    const session = await again.login(ask('anna'));
    t.match(again.verify(session), { ok: true, name: 'anna', rights: { role: 'admin' } });
    t.match(again.verify({ ...session, secret: 'x'.repeat(43) }), { ok: false });
    await t.rejects(again.login(ask('otto')), { code: 'login-refused' });
    await t.rejects(again.login(ask('anna', 'wrong-horse-battery')), { code: 'login-refused' });
    t.notMatch(JSON.stringify(s.audit), /horse/);
    s.pass(3_600_001);
    t.match(again.verify(session), { ok: false, code: 'token-expired' });
  },
);

await t.test('the second factor is asked for here too, and a code is good once', async (t) => {
  const s = stage();
  const n1 = s.node('n1', { leads: true });
  await n1.look();
  await t.rejects(n1.login(ask('two')), { code: 'code-wanted' });
  const code = totpAt(secret, Math.floor(wallMs / 30_000));
  t.ok(await n1.login(ask('two', undefined, code)));
  await t.rejects(n1.login(ask('two', undefined, code)), { code: 'login-refused' });
});

await t.test('what the CA did not sign counts nowhere, nor what is of before', async (t) => {
  const s = stage();
  await s.node('leader', { leads: true }).look();
  const first = s.memory.peek(breakGlassKey)?.value ?? '';
  const n2 = s.node('n2-forged', { leads: false, caKeyFile: '/none' });
  await n2.look();
  // Somebody with a node's key writes the ledger.
  s.memory.poke(breakGlassKey, null);
  s.put(user(5, { name: 'mallory' }));
  await s
    .node('thief', { leads: true, caKeyFile: thief.keyFile })
    .look()
    .catch(() => undefined);
  t.match(s.memory.peek(breakGlassKey)?.value, /mallory/);
  await t.rejects(n2.look(), { code: 'wrong-certificate' });
  t.same(
    n2.list?.accounts.map((a) => a.name),
    ['anna', 'two'],
    'the last good one goes on',
  );
  await t.rejects(n2.login(ask('mallory')), { code: 'login-refused' });
  // Anna is disabled; then somebody puts the old list back.
  s.pass(1_000);
  s.memory.poke(kinds.user.key(user(5, {}).id), null);
  s.put(user(1, { disabled: true }));
  await s.node('leader', { leads: true }).look();
  await n2.look();
  await t.rejects(n2.login(ask('anna')), { code: 'login-refused' });
  s.memory.poke(breakGlassKey, first);
  await n2.look();
  await t.rejects(n2.login(ask('anna')), { code: 'login-refused' });
  const again = s.node('n2-forged', { leads: false, caKeyFile: '/none' });
  await again.load();
  await t.rejects(again.login(ask('anna')), { code: 'login-refused' }, 'nor is it in the file');
});

await t.test('a list expires, is renewed in time, and is not written anew for nothing', async (t) => {
  const s = stage();
  const leader = s.node('leader', { leads: true });
  await leader.look();
  const revision = () => s.memory.peek(breakGlassKey)?.modRevision;
  const before = revision();
  s.pass(3_600_000);
  await leader.look();
  t.equal(revision(), before);
  s.pass(86_400_000);
  await leader.look();
  t.not(revision(), before);
  s.pass(breakGlassMs + 1);
  t.equal(leader.list, null);
  await t.rejects(leader.login(ask('anna')), { code: 'login-refused' });
});

await t.test('guesses are few, and a damaged file lets nobody in', async (t) => {
  const s = stage();
  const n1 = s.node('n1', { leads: true });
  await n1.look();
  for (let i = 0; i < 10; i++)
    await t.rejects(n1.login(ask('anna', `guess-number-${i}`)), { code: 'login-refused' });
  await t.rejects(n1.login(ask('anna')), { code: 'rate-limited' });
  const text = await readFile(path.join(dir, 'n1.json'), 'utf8');
  t.notMatch(text, /right-horse/);
  const { writeFile } = await import('node:fs/promises');
  await writeFile(path.join(dir, 'damaged.json'), text.replace('anna', 'eve1'));
  const damaged = s.node('damaged', { leads: false });
  await damaged.load();
  t.equal(damaged.list, null);
});

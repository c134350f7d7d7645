import t from 'tap';
import { passwordMatches, hashPassword, madeUpPassword } from '../../../agent/pki/password.js';
import { newTotpSecret, totpAt, totpStep } from '../../../agent/pki/totp.js';
import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import { logIn, password, person, session } from './people.js';
import { callApp, rig } from './rig.js';

const stepNow = (): number => Math.floor(Date.now() / 30_000);

void t.test('codes are those of RFC 6238, near now, and good once', (t) => {
  // The RFC's secret "12345678901234567890", in base 32; its eight digits cut to six.
  const secret = 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ';
  for (const [s, code] of [
    [59, '287082'],
    [1111111109, '081804'],
    [1111111111, '050471'],
    [1234567890, '005924'],
    [2000000000, '279037'],
    [20000000000, '353130'],
  ] as const) {
    t.equal(totpAt(secret, Math.floor(s / 30)), code);
    t.equal(totpStep(secret, code, s * 1000, -1), Math.floor(s / 30));
    t.equal(totpStep(secret, code, s * 1000 + 30_000, -1), Math.floor(s / 30), 'a clock that is behind');
    t.equal(totpStep(secret, code, s * 1000, Math.floor(s / 30)), null, 'not twice');
    t.equal(totpStep(secret, code, s * 1000 + 90_000, -1), null, 'too late');
  }
  t.match(newTotpSecret(), /^[A-Z2-7]{32}$/);
  t.end();
});

void t.test('passwords: salted, of nobody never right, made up long enough', async (t) => {
  const [a, b] = [await hashPassword('correct horse'), await hashPassword('correct horse')];
  t.not(a.hash, b.hash);
  t.equal(await passwordMatches(a, 'correct horse'), true);
  t.equal(await passwordMatches(a, 'correct horsE'), false);
  t.equal(await passwordMatches(null, ''), false);
  t.match(madeUpPassword(), /^([a-hjkmnp-z2-9]{5}-){3}[a-hjkmnp-z2-9]{5}$/);
});

void t.test('login: a session; what is wrong is told alike and leaves nothing in the ledger', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await person(r, 'vera', 'viewer');
  const before = r.memory.revision;
  for (const [user, pass] of [
    ['vera', 'wrong'],
    ['nobody', 'wrong'],
    ['vera', ''],
    [`${'x'.repeat(60)}`, 'wrong'],
  ] as const)
    t.match(await logIn(r, user, { password: pass }), { status: 401, body: { code: 'login-refused' } }, user);
  t.equal(r.memory.revision, before);
  const token = await session(r, 'vera');
  t.match(await callApp(r.app, token, 'GET', '/api/v1/me'), {
    body: { name: 'vera', via: 'session', role: 'viewer', user: { name: 'vera', secondFactor: false } },
  });
  const all = [...r.memory.history.map((h) => h.value), JSON.stringify(r.audit)].join('\n');
  t.notMatch(all, password('vera'));
  t.notMatch(all, token.split('.')[2] ?? 'x');
  t.notMatch(JSON.stringify((await r.call('GET', '/api/v1/users')).body), /hash|salt|"totp"/);
  t.match(r.audit, [{}, {}, {}, {}, {}, { who: 'vera', what: 'login', result: 'done' }]);
  t.match(r.audit[1], { who: 'vera', what: 'login', result: 'login-refused' });
  t.match(r.audit[2], { who: 'somebody' }, 'what is no name may be a password');
});

void t.test('a name that fails too often is locked for a while; sessions go on', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await person(r, 'vera', 'viewer');
  const token = await session(r, 'vera');
  for (let i = 0; i < 10; i++) t.equal((await logIn(r, 'Vera', { password: 'wrong' })).status, 401);
  t.match(await logIn(r, 'vera'), { status: 429, body: { code: 'rate-limited' } });
  t.equal((await callApp(r.app, token, 'GET', '/api/v1/me')).status, 200);
});

void t.test('the second factor: on with a code, asked for, each code once, off by an admin', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await person(r, 'vera', 'viewer');
  const token = await session(r, 'vera');
  const put = (body: object) => callApp(r.app, token, 'PUT', '/api/v1/me/second-factor', body);
  const fresh = (await callApp(r.app, token, 'GET', '/api/v1/me/second-factor')).body as {
    secret: string;
    uri: string;
  };
  t.match(fresh.uri, `secret=${fresh.secret}`);
  const right = { password: password('vera'), secret: fresh.secret };
  t.match(await put({ ...right, code: '000000' }), { status: 400 });
  t.match(await put({ ...right, password: 'wrong', code: totpAt(fresh.secret, stepNow()) }), { status: 401 });
  t.match(await put({ ...right, code: totpAt(fresh.secret, stepNow()) }), {
    body: { user: { secondFactor: true } },
  });
  t.match(await logIn(r, 'vera'), { status: 401, body: { code: 'code-wanted' } });
  t.match(await logIn(r, 'vera', { code: '000000' }), { status: 401, body: { code: 'login-refused' } });
  const code = totpAt(fresh.secret, stepNow() + 1);
  t.equal((await logIn(r, 'vera', { code })).status, 200);
  t.match(await logIn(r, 'vera', { code }), { status: 401 }, 'a code that somebody looked at is of no use');
  t.equal((await r.call('PATCH', '/api/v1/users/vera', { secondFactor: false })).status, 200);
  t.equal((await logIn(r, 'vera')).status, 200);
});

void t.test(
  'a changed password ends other sessions; being disabled ends all; so does deletion',
  async (t) => {
    const r = await rig();
    t.teardown(() => r.stop());
    await person(r, 'vera', 'operator');
    const [one, two] = [await session(r, 'vera'), await session(r, 'vera')];
    const status = async (token: string): Promise<number> =>
      (await callApp(r.app, token, 'GET', '/api/v1/me')).status;
    const change = { old: password('vera'), new: 'another password' };
    t.match(await callApp(r.app, one, 'PUT', '/api/v1/me/password', { ...change, old: 'x' }), {
      status: 401,
    });
    t.equal((await callApp(r.app, one, 'PUT', '/api/v1/me/password', change)).status, 204);
    t.same([await status(one), await status(two)], [200, 403]);
    const made = await callApp(r.app, one, 'POST', '/api/v1/tokens', {
      name: 'script',
      kind: 'api',
      role: 'viewer',
    });
    const script = (made.body as { token: string }).token;
    t.match(await callApp(r.app, script, 'GET', '/api/v1/me'), {
      body: { name: 'vera/script', role: 'viewer', via: 'token' },
    });
    t.match(await callApp(r.app, script, 'PUT', '/api/v1/me/password', change), { status: 403 });
    t.match(await callApp(r.app, one, 'POST', '/api/v1/tokens', { name: 'k', kind: 'api', role: 'admin' }), {
      status: 403,
    });
    t.match(await callApp(r.app, one, 'POST', '/api/v1/tokens', { name: 'j', kind: 'join' }), {
      status: 403,
    });
    t.equal((await r.call('PATCH', '/api/v1/users/vera', { role: 'viewer' })).status, 200);
    t.match(await callApp(r.app, one, 'GET', '/api/v1/me'), { body: { role: 'viewer' } }, 'at once');
    t.equal((await r.call('PATCH', '/api/v1/users/vera', { disabled: true })).status, 200);
    t.same([await status(one), await status(script)], [403, 403]);
    t.match(await logIn(r, 'vera', { password: 'another password' }), { status: 401 });
    t.equal((await r.call('DELETE', '/api/v1/users/vera')).status, 204);
    t.same((await r.ledger.list(kinds.token.prefix)).entries.length, 1, 'only the first token is left');
    await person(r, 'vera', 'viewer');
  },
);

void t.test('an admin stays one: nobody takes their own rights', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await person(r, 'anna', 'admin');
  const token = await session(r, 'anna');
  const as = (method: string, body?: object) => callApp(r.app, token, method, '/api/v1/users/anna', body);
  t.match(await as('DELETE'), { status: 409 });
  t.match(await as('PATCH', { disabled: true }), { status: 409 });
  t.match(await as('PATCH', { role: 'viewer' }), { status: 409 });
  t.equal((await as('PATCH', { role: 'admin' })).status, 200);
});

void t.test('whatever name a user may have, it can log in', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  for (const name of ['a', 'vera-', 'x._-', 'y'.repeat(31) + '.']) {
    await person(r, name, 'viewer');
    t.ok(await session(r, name), name);
  }
});

void t.test('sessions of one user are bounded, and the oldest goes', async (t) => {
  const r = await rig();
  t.teardown(() => r.stop());
  await person(r, 'vera', 'viewer');
  const first = await session(r, 'vera');
  for (let i = 0; i < 9; i++) await session(r, 'vera');
  const { entries } = await r.ledger.list(kinds.token.prefix);
  t.equal(entries.length, 1 + 8);
  t.equal((await callApp(r.app, first, 'GET', '/api/v1/me')).status, 403);
});

void t.test(
  'by the page: a cookie that scripts cannot read; changes only from the page itself',
  async (t) => {
    const r = await rig();
    t.teardown(() => r.stop());
    await person(r, 'olga', 'operator');
    const form = (fields: Record<string, string>, headers: Record<string, string> = {}) =>
      callApp(r.app, null, 'POST', '/login', new URLSearchParams(fields).toString(), {
        'content-type': 'application/x-www-form-urlencoded',
        accept: 'text/html',
        ...headers,
      });
    const wrong = await form({ user: 'olga', password: 'wrong' });
    t.match({ status: wrong.status, body: wrong.body as string }, { status: 401, body: /role="alert"/ });
    t.equal(
      (await form({ user: 'olga', password: password('olga') }, { 'sec-fetch-site': 'cross-site' })).status,
      403,
    );
    const good = await form({ user: 'olga', password: password('olga') });
    t.equal(good.status, 303);
    const set = good.headers.get('set-cookie') ?? '';
    t.match(set, /^__Host-flotilla=.*; HttpOnly; Secure; SameSite=Strict$/);
    const cookie = set.split(';')[0] ?? '';
    const post = (headers: Record<string, string>) =>
      callApp(r.app, null, 'POST', '/api/v1/vms', { name: 'v' }, { cookie, ...headers });
    t.match(await post({}), { status: 403, body: { code: 'forbidden' } }, 'who does not say where from');
    t.match(await post({ origin: 'https://evil.example' }), { status: 403 });
    t.match(await post({ 'sec-fetch-site': 'same-site', origin: 'https://c:7443' }), { status: 403 });
    t.match(await post({ origin: 'https://c' }), { status: 202 });
    t.equal((await callApp(r.app, null, 'GET', '/api/v1/me', undefined, { cookie })).status, 200);
    t.equal((await callApp(r.app, null, 'POST', '/logout', undefined, { cookie })).status, 303);
    t.equal(
      (await callApp(r.app, null, 'GET', '/api/v1/me', undefined, { cookie })).status,
      401,
      'it is over for the server too',
    );
  },
);

import { createHmac } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import t, { type Test } from 'tap';
import { signOnKey, ledger as kinds } from '../../../core/wire/ledger-keys.js';
import { lab } from './cli-rig.js';
import { FakeProvider } from './fake-provider.js';
import { logIn, person, session } from './people.js';
import { callApp, rig, type Rig } from './rig.js';

type App = Rig['app'];
type Answer = Awaited<ReturnType<typeof callApp>>;
const text = (a: { body: unknown }): string => String(a.body);

/** A cluster with a provider that makes users of its staff and admins. */
async function world(t: Test, more: object = {}): Promise<{ r: Rig; p: FakeProvider }> {
  const [r, p] = [await rig(), await FakeProvider.start()];
  t.teardown(async () => {
    r.stop();
    await p.stop();
  });
  const put = await r.call('PUT', '/api/v1/sign-on', settings(p, more));
  t.equal(put.status, 200, JSON.stringify(put.body));
  return { r, p };
}

const settings = (p: FakeProvider, more: object = {}): object => ({
  name: 'Example ID',
  issuer: p.issuer,
  clientId: p.clientId,
  clientSecret: p.clientSecret,
  ca: p.ca,
  roles: [
    { value: 'staff', role: 'operator' },
    { value: 'chiefs', role: 'admin' },
  ],
  makesUsers: true,
  ...more,
});

const cookieOf = (a: Answer, name: string): string =>
  (a.headers.getSetCookie().find((c) => c.startsWith(`${name}=`)) ?? '').split(';')[0] ?? '';
const halfway = '__Host-flotilla-sign-on';
const own = '__Host-flotilla';

/** Each from an address of its own: how much one may try is a test of its own. */
let addresses = 0;
const get = (
  app: App,
  path: string,
  cookie = '',
  from = `10.1.0.${(addresses += 1) % 250}`,
): Promise<Answer> => callApp(app, null, 'GET', path, undefined, cookie === '' ? {} : { cookie }, from);

async function begin(app: App, t: Test): Promise<{ url: URL; cookie: string }> {
  const a = await get(app, '/login/provider');
  t.equal(a.status, 303, text(a));
  return { url: new URL(a.headers.get('location') ?? ''), cookie: cookieOf(a, halfway) };
}
const comeBack = (app: App, back: URL, cookie: string): Promise<Answer> =>
  get(app, `${back.pathname}${back.search}`, cookie);
/** All of a sign-in by one browser. */
async function signIn(app: App, p: FakeProvider, t: Test): Promise<Answer> {
  const { url, cookie } = await begin(app, t);
  return comeBack(app, p.authorize(url), cookie);
}
const me = (app: App, a: Answer): Promise<Answer> => get(app, '/api/v1/me', cookieOf(a, own));
const users = async (r: Rig): Promise<number> => (await r.ledger.list(kinds.user.prefix)).entries.length;

void t.test('signed in by the provider: made a user, with the role of the group', async (t) => {
  const { r, p } = await world(t);
  t.match(
    text(await callApp(r.app, null, 'GET', '/login')),
    /href="\/login\/provider">Log in with Example ID</,
  );
  const { url, cookie } = await begin(r.app, t);
  t.equal(url.searchParams.get('redirect_uri'), 'https://c/login/provider/callback');
  t.match(url.searchParams.get('scope'), /^openid profile email$/);
  t.notMatch(url.href + Buffer.from(cookie, 'base64url').toString('latin1'), /the-secret-of-the-client/);
  const a = await comeBack(r.app, p.authorize(url), cookie);
  t.match(
    { status: a.status, body: text(a) },
    { status: 200, body: /http-equiv="refresh" content="0;url=\/"/ },
  );
  t.match(a.headers.getSetCookie().join('\n'), /__Host-flotilla=.*; HttpOnly; Secure; SameSite=Strict/);
  t.match(a.headers.getSetCookie().join('\n'), /__Host-flotilla-sign-on=; Max-Age=0/);
  t.match(await me(r.app, a), {
    status: 200,
    body: {
      name: 'vera',
      via: 'session',
      role: 'operator',
      user: { passwordSet: false, secondFactor: false },
    },
  });
  t.match(r.audit.at(-1), { who: 'vera', what: 'sign-on', result: 'done' });

  p.person = { ...p.person, preferred_username: 'vera.new-name', groups: ['chiefs', 'staff'] };
  t.match(await me(r.app, await signIn(r.app, p, t)), { body: { name: 'vera', role: 'admin' } });
  t.equal(await users(r), 1, 'the subject counts, not the name');
  p.person = { ...p.person, groups: [] };
  const none = await signIn(r.app, p, t);
  t.match(
    { status: none.status, body: text(none) },
    { status: 401, body: /None of your groups has a role here/ },
  );
  t.equal(cookieOf(none, own), '');

  // Without a password there is nothing to guess, and nothing to change.
  t.match(await logIn(r, 'vera', { password: '' }), { status: 401, body: { code: 'login-refused' } });
  const cookieNow = { cookie: cookieOf(a, own), origin: 'https://c' };
  const change = { old: '', new: 'another password' };
  t.match(await callApp(r.app, null, 'PUT', '/api/v1/me/password', change, cookieNow), { status: 403 });

  const out = await callApp(r.app, null, 'POST', '/logout', undefined, cookieNow);
  t.equal(out.headers.get('location'), '/login?out');
  t.match(
    text(await callApp(r.app, null, 'GET', '/login?out')),
    /href="\/logout\/provider">Log out of Example ID/,
  );
  const end = await get(r.app, '/logout/provider');
  t.match(end.headers.get('location'), `${p.issuer}/end?post_logout_redirect_uri=https%3A%2F%2Fc%2Flogin`);
  t.match(await me(r.app, a), { status: 401 });
});

void t.test('the second half is done by another controller, which knows nothing of the first', async (t) => {
  const { r, p } = await world(t);
  const { url, cookie } = await begin(r.app, t);
  const other = r.second();
  await other.view.ledger.refresh();
  const back = p.authorize(url);
  const a = await comeBack(other.app, back, cookie);
  t.equal(a.status, 200, text(a));
  t.match(await me(other.app, a), { body: { name: 'vera' } });
  // The same way once more: the code was used.
  const again = await comeBack(other.app, back, cookie);
  t.match({ status: again.status, body: text(again) }, { status: 401, body: /says no: invalid_grant/ });
  t.equal(cookieOf(again, own), '');
});

void t.test('only those whom an admin named; once bound, by subject alone', async (t) => {
  const { r, p } = await world(t, { makesUsers: false, roles: [] });
  const stranger = await signIn(r.app, p, t);
  t.match({ status: stranger.status, body: text(stranger) }, { status: 401, body: /does not let you in/ });
  t.equal(await users(r), 0);
  await person(r, 'vera', 'viewer');
  t.equal((await signIn(r.app, p, t)).status, 401, 'nobody becomes a user of here by calling themselves so');
  t.match(await r.call('POST', '/api/v1/users', { name: 'nobody', role: 'viewer' }), { status: 400 });
  t.match(await r.call('PATCH', '/api/v1/users/vera', { signOn: 'vera' }), {
    status: 200,
    body: { signOn: { name: 'vera', bound: null }, passwordSet: true },
  });
  const a = await signIn(r.app, p, t);
  t.match(await me(r.app, a), { body: { name: 'vera', role: 'viewer' } });
  t.equal((await logIn(r, 'vera')).status, 200, 'the password goes on');
  p.person = { ...p.person, sub: 'somebody-else' };
  t.equal((await signIn(r.app, p, t)).status, 401, 'another one with that name');
  t.match(await r.call('PATCH', '/api/v1/users/vera', { password: null }), { body: { passwordSet: false } });
  t.equal((await logIn(r, 'vera')).status, 401);
  t.match(
    await r.call('PATCH', '/api/v1/users/vera', { signOn: null }),
    { status: 400 },
    'no way in is left',
  );
  p.person = { ...p.person, sub: 'u-1' };
  t.equal((await signIn(r.app, p, t)).status, 200);
  t.equal((await r.call('PATCH', '/api/v1/users/vera', { disabled: true })).status, 200);
  t.match(await me(r.app, a), { status: 401 }, 'sessions end');
  t.equal((await signIn(r.app, p, t)).status, 401);
});

void t.test('a made user takes nobody’s name, and names are made fit', async (t) => {
  const { r, p } = await world(t);
  await person(r, 'vera', 'admin');
  const taken = await signIn(r.app, p, t);
  t.match(
    { status: taken.status, body: text(taken) },
    { status: 401, body: /Somebody else is &quot;vera&quot; here/ },
  );
  p.person = { ...p.person, preferred_username: 'Olga.O@example.org' };
  t.match(await me(r.app, await signIn(r.app, p, t)), { body: { name: 'olga.o' } });
  p.person = { sub: 'u-9', preferred_username: '<b>1</b>', groups: ['staff'] };
  t.match(await me(r.app, await signIn(r.app, p, t)), { body: { name: 'b-1-b' } });
  p.person = { sub: 'u-10', preferred_username: '???', groups: ['staff'] };
  t.match(text(await signIn(r.app, p, t)), /cannot be one here/);
  p.person = { sub: 'u-11', groups: ['staff'] };
  t.match(text(await signIn(r.app, p, t)), /does not say who you are here/);
});

void t.test('keys that change, both kinds of them; claims that only the user information has', async (t) => {
  const { r, p } = await world(t, { roleClaim: 'realm_access.roles' });
  p.person = { sub: 'u-1', preferred_username: 'vera', realm_access: { roles: ['staff'] } };
  t.equal((await signIn(r.app, p, t)).status, 200);
  p.rotate('ES256');
  t.equal((await signIn(r.app, p, t)).status, 200, 'a key of a moment ago');
  p.rotate('RS256');
  t.equal((await signIn(r.app, p, t)).status, 200);
  p.about = { ...p.about, token_endpoint_auth_methods_supported: ['client_secret_post'] };
  t.equal((await signIn(r.app, p, t)).status, 200);
  p.person = { sub: 'u-1' };
  p.userinfo = { sub: 'u-1', preferred_username: 'vera', realm_access: { roles: ['chiefs'] } };
  t.match(await me(r.app, await signIn(r.app, p, t)), { body: { name: 'vera', role: 'admin' } });
  p.userinfo = { ...p.userinfo, sub: 'u-2' };
  t.equal((await signIn(r.app, p, t)).status, 502, 'information about somebody else');
});

void t.test('tokens that are not right let nobody in', async (t) => {
  const { r, p } = await world(t);
  const s = Math.floor(Date.now() / 1000);
  const refused = async (what: string, set: () => void, unset: () => void): Promise<void> => {
    set();
    const a = await signIn(r.app, p, t);
    t.match({ status: a.status, body: text(a) }, { status: 502, body: /is not accepted/ }, what);
    t.equal(cookieOf(a, own), '', what);
    unset();
  };
  const claims = (what: string, more: object): Promise<void> =>
    refused(
      what,
      () => (p.claims = (c) => ({ ...c, ...more })),
      () => (p.claims = (c) => c),
    );
  await claims('another issuer', { iss: 'https://evil.example' });
  await claims('for another client', { aud: 'somebody-else' });
  await claims('for several, and not by name for us', { aud: ['other', p.clientId], azp: 'other' });
  await claims('of another sign-in', { nonce: 'made-up' });
  await claims('without a nonce', { nonce: undefined });
  await claims('expired', { exp: s - 3_600, iat: s - 7_200 });
  await claims('not valid yet', { nbf: s + 3_600 });
  await claims('without an end', { exp: undefined });
  const token = (what: string, change: (t: string) => string): Promise<void> =>
    refused(
      what,
      () => (p.token = change),
      () => (p.token = (x) => x),
    );
  const b64 = (v: object): string => Buffer.from(JSON.stringify(v)).toString('base64url');
  const [none, hmac] = [b64({ alg: 'none' }), b64({ alg: 'HS256' })];
  await token('alg none', (x) => `${none}.${x.split('.')[1]}.`);
  await token('claims that were changed', (x) => {
    const [h, c, sig] = x.split('.');
    const said = JSON.parse(Buffer.from(c ?? '', 'base64url').toString()) as object;
    return `${h}.${b64({ ...said, groups: ['chiefs'] })}.${sig}`;
  });
  await token('cut short', (x) => x.slice(0, -8));
  p.about = { id_token_signing_alg_values_supported: ['RS256', 'none', 'HS256'] };
  await token('alg none, which the provider says it uses', (x) => `${none}.${x.split('.')[1]}.`);
  await token('signed with what everybody knows', (x) => {
    const body = `${hmac}.${x.split('.')[1]}`;
    const key = JSON.stringify(p.key.jwk);
    return `${body}.${createHmac('sha256', key).update(body).digest('base64url')}`;
  });
  p.about = {};
  const { key } = p;
  await refused(
    'signed with a key that is not the provider’s',
    () => {
      const published = key.jwk;
      p.rotate('RS256');
      p.key = { ...p.key, kid: key.kid, jwk: published };
    },
    () => (p.key = key),
  );
  p.person = { ...p.person, groups: Array.from({ length: 60_000 }, (_, i) => `group ${i}`) };
  t.match(text(await signIn(r.app, p, t)), /the answer is too large/);
  t.equal(await users(r), 0);
  p.person = { ...p.person, groups: ['staff', ...Array.from({ length: 3_000 }, (_, i) => `group ${i}`)] };
  t.match(
    await me(r.app, await signIn(r.app, p, t)),
    { body: { role: 'operator' } },
    'many are not too many',
  );
  p.person = { sub: 'x'.repeat(300), preferred_username: 'long', groups: ['staff'] };
  t.match(text(await signIn(r.app, p, t)), /does not say who you are/);
  p.person = { sub: 'u-3', preferred_username: 'y'.repeat(300), groups: ['staff'] };
  t.match(text(await signIn(r.app, p, t)), /does not say who you are/);
  p.person = { sub: 'u-4', preferred_username: { toString: 'x' }, groups: { staff: true } };
  t.match(text(await signIn(r.app, p, t)), /does not say who you are/);
  p.person = { sub: 'u-5', preferred_username: 'eve', groups: 'chiefs staff' };
  t.match(text(await signIn(r.app, p, t)), /None of your groups/, 'one value, not two words');
  p.about = { issuer: 'https://evil.example' };
  t.equal((await get(r.app, '/login/provider')).status, 502, 'a description of another issuer');
  p.about = { token_endpoint: p.issuer.replace('https:', 'http:') };
  t.equal((await signIn(r.app, p, t)).status, 502, 'nothing is sent without TLS');
});

void t.test('what a browser brings back is its own, and of this sign-in', async (t) => {
  const { r, p } = await world(t);
  const [mine, other] = [await begin(r.app, t), await begin(r.app, t)];
  const stays = async (what: string, back: URL, cookie: string, says: RegExp): Promise<void> => {
    const a = await comeBack(r.app, back, cookie);
    t.match({ ok: a.status >= 400, body: text(a) }, { ok: true, body: says }, what);
    t.equal(cookieOf(a, own), '', what);
  };
  const back = p.authorize(mine.url);
  await stays('another browser', back, other.cookie, /is not accepted/);
  await stays('no cookie', back, '', /began in another browser/);
  await stays(
    'a made-up one',
    back,
    `${halfway}=${Buffer.alloc(200, 7).toString('base64url')}`,
    /another browser/,
  );
  await stays('one that was changed', back, `${mine.cookie.slice(0, -4)}AAAA`, /another browser/);
  const said = new URL(back);
  said.searchParams.set('error', 'access_denied');
  said.searchParams.set('error_description', '<script>alert(1)</script>');
  await stays('the provider says no', said, mine.cookie, /access_denied: &lt;script&gt;/);
  const without = new URL(back);
  without.searchParams.delete('code');
  await stays('nothing', without, mine.cookie, /is not accepted/);
  const wrong = new URL(back);
  wrong.searchParams.set('iss', 'https://evil.example');
  await stays('of another issuer', wrong, mine.cookie, /is not accepted/);
  const twice = new URL(back);
  twice.searchParams.append('state', 'x');
  await stays('two states', twice, mine.cookie, /is not accepted/);
  t.equal((await comeBack(r.app, back, mine.cookie)).status, 200, 'and it goes on');

  // The settings were changed meanwhile: what was begun under others ends.
  const late = await begin(r.app, t);
  t.equal((await r.call('PUT', '/api/v1/sign-on', settings(p))).status, 200);
  await stays('under other settings', p.authorize(late.url), late.cookie, /began in another browser/);
});

void t.test('nobody is sent elsewhere by our addresses', async (t) => {
  const { r, p } = await world(t);
  for (const more of [
    '?to=https://evil.example',
    '?redirect_uri=https://evil.example',
    '?next=//evil.example',
  ]) {
    const a = await get(r.app, `/login/provider${more}`);
    const url = new URL(a.headers.get('location') ?? '');
    t.equal(url.origin, p.issuer);
    t.equal(url.searchParams.get('redirect_uri'), 'https://c/login/provider/callback');
    const back = p.authorize(url);
    back.searchParams.set('to', 'https://evil.example');
    const done = await comeBack(r.app, back, cookieOf(a, halfway));
    t.equal(done.headers.get('location'), null);
    t.notMatch(text(done), /evil/);
    t.equal(
      new URL((await get(r.app, `/logout/provider${more}`)).headers.get('location') ?? '').origin,
      p.issuer,
    );
  }
});

void t.test('guessing is slowed down for an address, and nobody else', async (t) => {
  const { r, p } = await world(t);
  for (let i = 0; i < 10; i++)
    t.equal((await get(r.app, '/login/provider/callback?code=x&state=y', '', '10.9.9.9')).status, 401);
  const asked = p.asked.length;
  t.equal((await get(r.app, '/login/provider/callback?code=x&state=y', '', '10.9.9.9')).status, 429);
  t.equal((await get(r.app, '/login/provider', '', '10.9.9.9')).status, 429);
  t.equal(p.asked.length, asked, 'the provider is not bothered');
  t.equal((await signIn(r.app, p, t)).status, 200);
});

void t.test('a provider that hangs or is gone: local users go on', async (t) => {
  const { r, p } = await world(t);
  await person(r, 'anna', 'admin');
  p.hangs.add('/.well-known/openid-configuration');
  const waiting = Array.from({ length: 16 }, () => get(r.app, '/login/provider'));
  t.match(text(await get(r.app, '/login/provider')), /Too many sign-ins wait/);
  t.ok(await session(r, 'anna'));
  t.match(text(await get(r.app, '/login')), /Log in with Example ID/);
  for (const a of await Promise.all(waiting))
    t.match({ status: a.status, body: text(a) }, { status: 503, body: /does not answer as it should/ });
  t.match(await r.call('POST', '/api/v1/sign-on/test'), {
    status: 503,
    body: { code: 'provider-unreachable' },
  });
  p.hangs.clear();
  t.equal((await signIn(r.app, p, t)).status, 200);
  const { url, cookie } = await begin(r.app, t);
  const back = p.authorize(url);
  await p.stop();
  t.equal((await comeBack(r.app, back, cookie)).status, 503);
  t.match(text(await get(r.app, '/login/provider')), /Users with a password log in as before/);
  t.equal((await get(r.app, '/logout/provider')).status, 503);
  t.ok(await session(r, 'anna'));
});

void t.test('settings: secrets are taken and never given, and go to no other provider', async (t) => {
  const { r, p } = await world(t);
  const at = '/api/v1/sign-on';
  const kept = (): { clientSecret: string | null; sealKey: string } =>
    JSON.parse(r.memory.peek(signOnKey)?.value ?? 'null') as never;
  t.match(kept(), { clientSecret: p.clientSecret });
  const shown = await r.call('GET', at);
  t.match(shown, {
    body: { provider: { issuer: p.issuer, clientSecretSet: true }, callbackPath: '/login/provider/callback' },
  });
  t.match(await r.call('POST', `${at}/test`), { body: { issuer: p.issuer, keys: 1, endsSessions: true } });
  const again = await r.call('PUT', at, { ...settings(p), clientSecret: undefined, name: 'Other' });
  t.equal(again.status, 200);
  t.match(kept(), { clientSecret: p.clientSecret });
  for (const answer of [shown, again, r.audit, await r.call('GET', '/api/v1/cluster')]) {
    const all = JSON.stringify(answer);
    t.notOk(all.includes(p.clientSecret) || all.includes(kept().sealKey));
  }
  for (const bad of [
    { clientSecret: undefined, issuer: 'https://other.example' },
    { clientSecret: undefined, clientId: 'other' },
    { issuer: 'http://plain.example' },
    { issuer: 'https://u:p@idp.example' },
    { issuer: 'https://idp.example/?x' },
    { issuer: 'file:///etc/passwd' },
    { scopes: ['a b'] },
    { roles: [{ value: 'x', role: 'root' }] },
    { ca: 'no certificate' },
    { more: 1 },
  ])
    t.match(await r.call('PUT', at, { ...settings(p), ...bad }), { status: 400 }, JSON.stringify(bad));
  t.equal((await r.call('DELETE', at)).status, 204);
  t.equal((await r.call('DELETE', at)).status, 204);
  t.match(await r.call('GET', at), { body: { provider: null } });
  t.match(await r.call('POST', `${at}/test`), { status: 409 });
  t.notMatch(text(await get(r.app, '/login')), /Log in with/);
  t.match(text(await get(r.app, '/login/provider')), /No provider of identities is set up/);
});

void t.test('flotilla sign-on', async (t) => {
  const [l, p] = [await lab(), await FakeProvider.start()];
  t.teardown(async () => {
    await l.stop();
    await p.stop();
  });
  const file = async (name: string, content: string): Promise<string> => {
    await writeFile(`${l.dir}/${name}`, content);
    return `${l.dir}/${name}`;
  };
  t.match(await l.run('sign-on', 'show'), { code: 0, out: /No provider is set/ });
  t.match(await l.run('sign-on', 'set', '--name', 'x'), { code: 2 }, 'issuer and client are wanted');
  const set = await l.run(
    ...['sign-on', 'set', '--issuer', p.issuer, '--client-id', p.clientId],
    ...[
      '--client-secret-file',
      await file('secret', `${p.clientSecret}\n`),
      '--ca-file',
      await file('idp.crt', p.ca),
    ],
    ...['--role', 'staff=operator', '--role', 'cn=chiefs,dc=example=admin', '--name', 'Example ID'],
  );
  t.match(set, { code: 0, out: /cn=chiefs,dc=example +admin/ });
  t.notMatch(set.out + set.err, new RegExp(p.clientSecret));
  t.match(await l.run('sign-on', 'test'), { code: 0, out: /Keys +1\n/ });
  t.match(await l.run('sign-on', 'set', '--role', 'x'), { code: 2, err: /VALUE=ROLE/ });
  t.match(await l.run('user', 'create', 'vera', '--sign-on', 'vera'), { code: 0 });
  t.match(await l.run('user', 'show', 'vera'), { code: 0, out: /sign-on +vera, has not come yet/ });
  t.equal((await signIn(l.r.app, p, t)).status, 200);
  t.match(await l.run('user', 'show', 'vera'), {
    code: 0,
    out: /role +operator[^]*password +none[^]*sign-on +vera\n/,
  });
  t.match(await l.run('user', 'edit', 'vera', '--sign-on', ''), { code: 2, err: /could not log in/ });
  const word = await file('password', 'a long password\n');
  t.match(await l.run('user', 'edit', 'vera', '--sign-on', '', '--password-file', word), { code: 0 });
  t.equal((await signIn(l.r.app, p, t)).status, 401);
  const change = await l.run(
    'sign-on',
    'set',
    '--make-users',
    '--other-role',
    'viewer',
    '--role',
    '',
    '--role-claim',
    'r',
  );
  t.match(change, { code: 0, out: /Roles by +hand[^]*Others +viewer[^]*made at their first/ });
  t.match(await l.run('sign-on', 'off'), { code: 0 });
  t.match(await l.run('sign-on', 'test'), { code: 4, err: /code: wrong-state/ });
});

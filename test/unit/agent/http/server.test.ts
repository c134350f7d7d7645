import { createHash } from 'node:crypto';
import { request, type RequestOptions } from 'node:https';
import { Hono } from 'hono';
import t from 'tap';
import type { AuthEnv, TokenVerifier } from '../../../../agent/http/auth.js';
import { createAgentHttp, type AgentHttp } from '../../../../agent/http/server.js';
import { stylesheetPath } from '../../../../agent/http/style.js';
import type { TlsFiles } from '../../../../agent/radio/link.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import { problemSchema } from '../../../../core/wire/rest.js';
import { TestCa } from '../radio/test-pki.js';

const dir = t.testdir({});
const ca = await new TestCa(dir, 'ca').make();
const otherCa = await new TestCa(dir, 'other-ca').make();
const tls = await ca.certificate('n1');
const good = `flt-api.abcd1234.${'s'.repeat(43)}`;
const old = `flt-api.old01234.${'s'.repeat(43)}`;
const verifyToken: TokenVerifier = ({ id }) =>
  id === 'abcd1234'
    ? { ok: true, name: 'admin' }
    : { ok: false, code: id === 'old01234' ? 'token-expired' : 'token-unknown' };
const time = { now: 0 };
const logged: string[] = [];

function mounts() {
  const open = new Hono().post('/', async (c) => c.text(`got ${(await c.req.text()).length}`));
  const images = new Hono<AuthEnv>()
    .get('/who', (c) => c.json(c.get('identity')))
    .get('/boom', () => {
      throw new Error('the password is hunter2');
    })
    .get('/full', () => {
      throw new FlotillaError('no-space', 'Pool "local" is full', {
        hint: 'Delete something.',
        cause: new Error('ENOSPC'),
      });
    })
    .put('/stream', async (c) => c.text(`${(await c.req.arrayBuffer()).byteLength}`));
  return [
    { path: '/join', app: open, allow: 'anyone', bodyBytesMax: 100 },
    { path: '/v1/images', app: images, allow: 'node-or-token', bodyBytesMax: null },
    { path: '/v1/peer', app: images, allow: 'node', bodyBytesMax: null },
  ] as const;
}

let removed = '';
const http: AgentHttp = createAgentHttp({
  host: '127.0.0.1',
  port: 0,
  node: 'n1',
  tls: () => tls,
  verifyToken,
  isMember: (peer) => peer.node !== removed,
  health: () => ({ ok: true, node: 'n1', version: '0.1.0', fingerprint: 'ab'.repeat(32) }),
  page: ({ still }) => `<p>page ${still}</p>`,
  metrics: () => 'flotilla_up 1\n',
  mounts: mounts(),
  clock: { nowMs: () => time.now },
  log: { info: () => undefined, warn: () => undefined, error: (text) => logged.push(text) },
});
await http.start();
t.teardown(() => http.stop());

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}
function call(path: string, o: RequestOptions & { body?: string; client?: TlsFiles } = {}): Promise<Answer> {
  const { body, client, ...rest } = o;
  return new Promise((resolve, reject) => {
    const r = request(
      {
        host: '127.0.0.1',
        port: http.port,
        path,
        ca: tls.ca,
        agent: false,
        ...(client === undefined ? {} : { cert: client.cert, key: client.key }),
        ...rest,
      },
      (res) => {
        let text = '';
        res.on('data', (d: Buffer) => (text += d.toString()));
        res.on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, text }));
      },
    );
    r.on('error', reject);
    r.end(body);
  });
}
const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });
const form = { 'content-type': 'application/x-www-form-urlencoded', accept: 'text/html' };
const code = (a: Answer) => problemSchema.parse(JSON.parse(a.text)).code;

await t.test('without a login: health, style and the login page, nothing else', async (t) => {
  t.same(JSON.parse((await call('/healthz')).text), {
    ok: true,
    node: 'n1',
    version: '0.1.0',
    fingerprint: 'ab'.repeat(32),
  });
  const css = await call(stylesheetPath);
  t.equal(css.status, 200);
  t.match(css.headers['cache-control'], /immutable/);
  const page = await call('/', { headers: { accept: 'text/html,*/*' } });
  t.equal(page.status, 303);
  t.equal(page.headers['location'], '/login');
  for (const path of ['/', '/metrics', '/v1/images/who', '/v1/peer/who']) {
    const a = await call(path);
    t.equal(a.status, 401, path);
    t.equal(code(a), 'unauthenticated');
    t.match(a.headers['content-type'], /^application\/problem\+json/);
    t.match(a.headers['www-authenticate'], /Bearer/);
  }
  t.equal((await call('/nothing-here')).status, 404);
  t.equal((await call('/', { method: 'POST', ...bearer(good) })).status, 404, 'nothing changes by HTTP');
});

await t.test('every answer carries the strict headers', async (t) => {
  for (const path of ['/healthz', '/login', '/metrics', '/none', stylesheetPath]) {
    const { headers } = await call(path);
    t.match(headers['content-security-policy'], /default-src 'none'.*frame-ancestors 'none'/);
    t.notMatch(headers['content-security-policy'], /unsafe|script/);
    t.equal(headers['x-content-type-options'], 'nosniff');
    t.equal(headers['referrer-policy'], 'no-referrer');
    t.ok(headers['cache-control']);
  }
});

await t.test('bearer tokens', async (t) => {
  const page = await call('/', bearer(good));
  t.equal(page.text, '<p>page false</p>');
  t.equal(page.headers['refresh'], '5');
  t.equal((await call('/?still', bearer(good))).headers['refresh'], undefined, 'refreshing can be stopped');
  t.equal((await call('/metrics', bearer(good))).text, 'flotilla_up 1\n');
  t.same(JSON.parse((await call('/v1/images/who', bearer(good))).text), {
    kind: 'token',
    id: 'abcd1234',
    name: 'admin',
    byCookie: false,
  });
  t.equal(code(await call('/v1/peer/who', bearer(good))), 'forbidden');
  const before = http.refused()['token'] ?? 0;
  t.equal(code(await call('/metrics', bearer(old))), 'token-expired');
  t.equal(code(await call('/metrics', bearer('nonsense'))), 'token-unknown');
  t.equal(http.refused()['token'], before + 2);
});

await t.test('login gives a cookie, logout takes it', async (t) => {
  const post = (token: string, headers: Record<string, string> = {}) =>
    call('/login', {
      method: 'POST',
      headers: { ...form, ...headers },
      body: new URLSearchParams({ token }).toString(),
    });
  const wrong = await post(`flt-api.zzzz1234.${'x'.repeat(43)}`);
  t.equal(wrong.status, 403);
  t.match(wrong.text, /role="alert"/);
  t.notMatch(wrong.text, 'xxxxxxx', 'the token is not repeated');
  t.match((await post('"><script>alert(1)</script>')).text, /not known/);
  const right = await post(good);
  t.equal(right.status, 303);
  const cookie = String(right.headers['set-cookie']);
  t.match(cookie, /^__Host-flotilla=/);
  for (const part of ['HttpOnly', 'Secure', 'SameSite=Strict', 'Path=/']) t.match(cookie, part);
  const headers = { cookie: cookie.split(';')[0] as string, accept: 'text/html' };
  t.equal((await call('/', { headers })).text, '<p>page false</p>');
  const stale = await call('/', { headers: { cookie: `__Host-flotilla=${old}`, accept: 'text/html' } });
  t.equal(stale.status, 303, 'a stale cookie leads to the login');
  t.match(String(stale.headers['set-cookie']), /Max-Age=0/);
  const out = await call('/logout', { method: 'POST', headers });
  t.match(String(out.headers['set-cookie']), /Max-Age=0/);
  t.equal((await post(good, { 'sec-fetch-site': 'cross-site' })).status, 403, 'not from another site');
  t.equal((await post('x'.repeat(5_000))).status, 413);
});

await t.test('failed logins are slowed down, good ones after a while let in', async (t) => {
  const post = (token: string) =>
    call('/login', {
      method: 'POST',
      headers: { ...form, accept: '*/*' },
      body: new URLSearchParams({ token }).toString(),
    });
  time.now += 120_000;
  for (let i = 0; i < 10; i += 1) t.equal(code(await post('wrong')), 'token-unknown');
  const limited = await post(good);
  t.equal(limited.status, 429);
  t.equal(code(limited), 'rate-limited');
  time.now += 61_000;
  t.equal((await post(good)).status, 303);
});

await t.test('nodes come with certificates; wrong ones are refused and counted', async (t) => {
  const n2 = await ca.certificate('n2');
  const who = await call('/v1/peer/who', { client: n2 });
  t.match(JSON.parse(who.text), { kind: 'node', node: 'n2' });
  t.equal((await call('/metrics', { client: n2 })).status, 200);
  const before = http.refused()['certificate'] ?? 0;
  for (const client of [await otherCa.certificate('n2'), await ca.certificate('n3', { expired: true })]) {
    const a = await call('/v1/peer/who', { client, ...bearer(good) });
    t.equal(a.status, 403);
    t.equal(code(a), 'wrong-certificate');
  }
  t.equal(http.refused()['certificate'], before + 2);
  t.equal((await call('/healthz', { client: await otherCa.certificate('n2') })).status, 200);
  removed = 'n2';
  t.equal(code(await call('/v1/peer/who', { client: n2 })), 'wrong-certificate', 'a removed node is out');
  removed = '';
});

await t.test(
  'mounted parts: bounds of bodies, errors with code and hint, defects without their words',
  async (t) => {
    t.equal((await call('/join', { method: 'POST', body: 'x'.repeat(100) })).text, 'got 100');
    const big = await call('/join', { method: 'POST', body: 'x'.repeat(101) });
    t.equal(code(big), 'too-large');
    const chunked = await call('/join', {
      method: 'POST',
      body: 'x'.repeat(200),
      headers: { 'transfer-encoding': 'chunked' },
    });
    t.equal(chunked.status, 413);
    const stream = await call('/v1/images/stream', {
      method: 'PUT',
      body: 'x'.repeat(300_000),
      ...bearer(good),
    });
    t.equal(stream.text, '300000');
    const full = await call('/v1/images/full', bearer(good));
    t.equal(full.status, 507);
    t.match(JSON.parse(full.text), { code: 'no-space', hint: 'Delete something.', causes: ['ENOSPC'] });
    const boom = await call('/v1/images/boom', bearer(good));
    t.equal(boom.status, 500);
    t.notMatch(boom.text, 'hunter2');
    t.equal(logged.length, 1, 'the journal has it');
  },
);

await t.test('a renewed certificate is used at once', async (t) => {
  const next = await ca.certificate('n1');
  const seen = () =>
    new Promise<string>((resolve, reject) => {
      const r = request(
        { host: '127.0.0.1', port: http.port, path: '/healthz', ca: tls.ca, agent: false },
        (res) => {
          const s = res.socket as import('node:tls').TLSSocket;
          resolve(createHash('sha256').update(s.getPeerCertificate().raw).digest('hex'));
          res.resume();
        },
      );
      r.on('error', reject);
      r.end();
    });
  const before = await seen();
  Object.assign(tls, next);
  http.reloadTls();
  t.not(await seen(), before);
});

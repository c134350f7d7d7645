import { Hono } from 'hono';
import t from 'tap';
import { requestLimit } from '../../../controller/api/request-limit.js';
import type { AuthEnv, Identity } from '../../../agent/http/auth.js';

const token = (id: string, user: string | null): Identity => ({
  kind: 'token',
  id,
  name: id,
  byCookie: false,
  rights: { role: 'admin', operates: [], operatesTags: [], operatesVapps: [], user, session: false },
});

await t.test('a caller that asks without end is told to wait, and the others are not', async (t) => {
  const clock = { ms: 0, nowMs: () => clock.ms };
  let who: Identity | null = null;
  const app = new Hono<AuthEnv>();
  app.use(async (c, next) => {
    c.set('identity', who);
    await next();
  });
  app.use(requestLimit(clock));
  app.get('/', (c) => c.text('here'));
  const from = { incoming: { socket: { remoteAddress: '192.0.2.1' } } };
  const ask = (): Response | Promise<Response> => app.request('/', {}, from);
  /** How many are answered of so many. */
  const answered = async (n: number): Promise<number> => {
    let good = 0;
    for (let i = 0; i < n; i++) if ((await ask()).status === 200) good++;
    return good;
  };
  who = token('a1', 'anna');
  t.equal(await answered(10_001), 10_000);
  const no = await ask();
  t.equal(no.status, 429);
  t.equal(no.headers.get('retry-after'), '10');
  t.match(await no.json(), { code: 'rate-limited', hint: /Ask again in 10 s/ });
  who = token('a2', 'anna');
  t.equal((await ask()).status, 429, 'another token of the same user');
  who = token('b1', 'ben');
  t.equal((await ask()).status, 200, 'another user');
  who = { kind: 'node', node: 'n1', fingerprint: 'f' };
  t.equal((await ask()).status, 200, 'a node');
  who = null;
  t.equal(await answered(601), 600, 'nobody known, by address');
  who = token('a1', 'anna');
  clock.ms = 9_999;
  t.equal((await ask()).status, 429);
  clock.ms = 10_000;
  t.equal((await ask()).status, 200, 'after ten seconds');
});

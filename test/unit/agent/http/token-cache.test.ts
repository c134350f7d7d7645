import { createHash } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import t from 'tap';
import { parseApiToken, type TokenAnswer } from '../../../../agent/http/auth.js';
import { TokenCache } from '../../../../agent/http/token-cache.js';
import { TryLimit } from '../../../../agent/http/try-limit.js';
import type { TokenRecord } from '../../../../core/domain/cluster.js';

const secret = 'k'.repeat(43);
const record = (o: Partial<TokenRecord> = {}): TokenRecord => ({
  id: 'abcd1234',
  name: 'admin',
  kind: 'api',
  role: 'admin',
  user: null,
  sha256: createHash('sha256').update(secret).digest('hex'),
  expiresMs: null,
  usesLeft: null,
  createdMs: 0,
  ...o,
});

const vera = '5f0f7c0e-0d8e-4a53-9f6c-3f3b8a1c2d4e';
const may = (role: string, user: string | null = null) => ({
  role,
  operates: [],
  operatesTags: [],
  operatesVapps: [],
  user,
  session: false,
});

await t.test('works from its file when the ledger is gone, and forgets what was revoked', async (t) => {
  const path = `${t.testdir({})}/tokens.json`;
  const first = new TokenCache(path);
  await first.load();
  const ask = async (c: TokenCache, id = 'abcd1234', s = secret): Promise<TokenAnswer> =>
    c.verifier(() => 1_000)({ id, secret: s });
  t.same(await ask(first), { ok: false, code: 'token-unknown' });
  await first.update([
    record(),
    record({ id: 'join1234', kind: 'join' }),
    record({ id: 'old01234', expiresMs: 999 }),
    record({ id: 'vera1234', user: vera }),
  ]);
  t.same(await ask(first), { ok: true, name: 'admin', rights: may('admin') });
  t.same(await ask(first, 'join1234'), { ok: false, code: 'token-unknown' }, 'a join token is no login');
  t.same(await ask(first, 'old01234'), { ok: false, code: 'token-expired' });
  t.same(await ask(first, 'abcd1234', 'wrong'.repeat(8)), { ok: false, code: 'token-unknown' });

  const second = new TokenCache(path);
  await second.load();
  t.match(
    await ask(second, 'vera1234'),
    { ok: true, rights: may('viewer', vera) },
    'she may be no admin any more',
  );
  t.same(
    await ask(second),
    { ok: true, name: 'admin', rights: may('admin') },
    'a new agent without the ledger',
  );
  t.equal((await stat(path)).mode & 0o777, 0o600);
  t.notMatch(await readFile(path, 'utf8'), secret);
  await second.update([]);
  t.same(await ask(second), { ok: false, code: 'token-unknown' });

  await writeFile(path, '{broken');
  const third = new TokenCache(path);
  await third.load();
  t.same(await ask(third), { ok: false, code: 'token-unknown' }, 'an unreadable file lets nobody in');
});

await t.test('a token is taken apart, or is none', async (t) => {
  t.same(parseApiToken(` flt-api.abcd1234.${secret}\n`), { id: 'abcd1234', secret });
  for (const bad of [
    '',
    'flt-api.',
    `flt1.abcd1234.${secret}`,
    `flt-api.ABCD1234.${secret}`,
    `flt-api.abcd1234.${secret}.x`,
  ])
    t.equal(parseApiToken(bad), null, bad);
});

await t.test('failed tries are bounded in time and memory', async (t) => {
  const limit = new TryLimit({ triesMax: 2, windowMs: 1_000, addressesMax: 3 });
  limit.count('a', 0);
  t.equal(limit.waitMs('a', 0), 0);
  limit.count('a', 100);
  t.equal(limit.waitMs('a', 100), 900);
  t.equal(limit.waitMs('b', 100), 0);
  t.equal(limit.waitMs('a', 1_000), 0);
  for (const who of ['b', 'c', 'd', 'e']) limit.count(who, 100);
  t.equal(limit.size, 3);
});

import { once } from 'node:events';
import { connect } from 'node:net';
import t from 'tap';
import { lockstepApp, lockstepBodyMax } from '../../../../agent/lockstep/http.js';
import { LockstepPeers } from '../../../../agent/lockstep/peer.js';
import { createAgentHttp } from '../../../../agent/http/server.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import type { LockstepAsk } from '../../../../core/wire/lockstep.js';
import { freePort } from '../radio/broker.js';
import { TestCa } from '../radio/test-pki.js';

const ca = await new TestCa(t.testdir({}), 'ca').make();
const [n1, n2, n3] = await Promise.all(['n1', 'n2', 'n3'].map((n) => ca.certificate(n)));
if (n1 === undefined || n2 === undefined || n3 === undefined) throw new Error('no certificates');
const vm = '0190f8a0-0000-7000-8000-000000000001';
const asked: { from: string; ask: LockstepAsk }[] = [];
let answer: () => object = () => ({ words: [] });
const server = createAgentHttp({
  host: '127.0.0.1',
  port: 0,
  node: 'n1',
  tls: () => n1,
  verifyToken: () => ({ ok: false, code: 'token-unknown' }),
  isMember: (peer) => peer.node !== 'n3',
  health: () => ({ ok: true, node: 'n1', version: '0', fingerprint: 'ab'.repeat(32) }),
  page: () => '',
  metrics: () => '',
  mounts: [
    {
      path: '/v1/lockstep',
      app: lockstepApp(async (from, ask) => {
        asked.push({ from, ask });
        return Promise.resolve(answer());
      }),
      allow: 'node',
      bodyBytesMax: lockstepBodyMax,
    },
  ],
  clock: { nowMs: () => 0 },
  log: { info: () => undefined, warn: () => undefined, error: () => undefined },
});
await server.start();
const peers = new LockstepPeers({ port: server.port, tls: () => n2 });
const strangers = new LockstepPeers({ port: server.port, tls: () => n3 });
t.teardown(async () => {
  peers.stop();
  strangers.stop();
  await server.stop();
});
// As its certificate calls it.
const to = { node: 'localhost', address: '127.0.0.1' };
const beat = { do: 'beat' as const, via: 0, words: [{ vm, word: 'well' as const }] };
const signal = new AbortController().signal;

await t.test('a node asks, by its certificate', async (t) => {
  answer = () => ({ words: [{ vm, word: 'yours' }] });
  for (let i = 0; i < 3; i++) t.same(await peers.ask(to, beat, signal), { words: [{ vm, word: 'yours' }] });
  t.same(asked.at(-1), { from: 'n2', ask: beat });
});

await t.test('what is wrong is refused, on both sides', async (t) => {
  answer = () => ({ words: [{ vm, word: 'fine' }] });
  await t.rejects(peers.ask(to, beat, signal), { code: 'bad-input' }, 'an answer with other words');
  answer = () => {
    throw new FlotillaError('wrong-state', 'the ledger does not want it', { hint: 'Look again.' });
  };
  await t.rejects(peers.ask(to, { do: 'bear', vm, pair: 3, xml: '<domain/>' }, signal), {
    code: 'wrong-state',
    message: 'Node localhost: the ledger does not want it',
    hint: 'Look again.',
  });
  answer = () => ({ words: [] });
  const n = asked.length;
  const hostile = [
    { ...beat, via: 9 },
    { ...beat, words: [{ vm: '../x', word: 'well' }] },
    { do: 'bear', vm, pair: 0, xml: '' },
  ];
  for (const ask of hostile)
    await t.rejects(peers.ask(to, ask as typeof beat, signal), { code: 'bad-input' });
  await t.rejects(peers.ask(to, { do: 'bear', vm, pair: 1, xml: 'x'.repeat(64_001) }, signal), {
    code: 'bad-input',
  });
  await t.rejects(peers.ask(to, { do: 'bear', vm, pair: 1, xml: 'x'.repeat(lockstepBodyMax) }, signal), {
    code: 'too-large',
  });
  await t.rejects(strangers.ask(to, beat, signal), { code: 'wrong-certificate' }, 'a node that was removed');
  await t.rejects(
    peers.ask({ ...to, node: 'n4' }, beat, signal),
    { code: 'node-unreachable' },
    'another node answers there',
  );
  t.equal(asked.length, n, 'none of that came through');
});

await t.test('who does not answer is given up', async (t) => {
  answer = () => new Promise(() => undefined);
  const limit = new AbortController();
  const asking = peers.ask(to, beat, limit.signal);
  limit.abort(new Error('too late'));
  await t.rejects(asking, { code: 'node-unreachable' });
});

await t.test('a knock tells a kernel that answers from one that does not', async (t) => {
  const within = (): AbortSignal => AbortSignal.timeout(300);
  t.equal(await peers.knock(to, within()), true);
  const nobody = new LockstepPeers({ port: await freePort(), tls: () => n2 });
  t.equal(await nobody.knock(to, within()), true, 'its agent is dead, and it is not');
  t.equal(
    await peers.knock({ node: 'n9', address: '255.255.255.255' }, within()),
    false,
    'nobody can have it',
  );
  t.equal(await peers.knock(to, AbortSignal.abort()), false);
  // It is no attempt at anything; who speaks and is not understood is.
  const other = connect(server.port, '127.0.0.1', () => other.end('knock'));
  other.resume();
  await once(other, 'close');
  t.same(server.refused(), { tls: 1 });
});

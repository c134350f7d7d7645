import { once } from 'node:events';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { EtcdLedger } from '../../../../agent/ledger/etcd.js';
import { Gateway } from '../../../../agent/ledger/gateway.js';
import { lineKind, Watcher } from '../../../../agent/ledger/watch.js';
import { until } from './real-etcd.js';

type Handler = (req: http.IncomingMessage, res: http.ServerResponse) => void;

/** Something that is at an etcd's address and misbehaves in a chosen way. */
class FakeMember {
  calls = 0;
  readonly #server: http.Server;

  constructor(handle: Handler) {
    this.#server = http.createServer((req, res) => {
      this.calls++;
      req.resume().on('end', () => handle(req, res));
    });
  }

  async start(t: { teardown(f: () => void): void }): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      this.#server.close();
      this.#server.closeAllConnections();
    });
    return this;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }
}

const json =
  (status: number, body: unknown): Handler =>
  (_, res) => {
    res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  };
const done = json(200, { header: { revision: '7' }, succeeded: true });
const found = json(200, { header: { revision: '7' }, kvs: [] });
const hangs: Handler = () => undefined;
const resets: Handler = (req) => req.socket.resetAndDestroy();
const html: Handler = (_, res) => res.writeHead(502).end('<html>bad gateway</html>');
const cutOff: Handler = (req, res) => {
  res.writeHead(200, { 'content-length': '1000' }).write('{"header":');
  setTimeout(() => req.socket.destroy(), 5);
};
const huge: Handler = (_, res) => {
  res.writeHead(200);
  const chunk = Buffer.alloc(1024 * 1024, 32);
  const more = () => {
    while (!res.destroyed && res.write(chunk));
  };
  res.on('drain', more);
  more();
};

const put = [{ put: '/flotilla/x', value: '1' }];

function client(t: { teardown(f: () => void): void }, endpoints: string[], deadlineMs = 1_500): EtcdLedger {
  const ledger = new EtcdLedger({ endpoints, tls: null, insecureForTests: true, deadlineMs });
  t.teardown(() => void ledger.close());
  return ledger;
}

/** A port where nobody listens. */
async function deadEndpoint(): Promise<string> {
  const s = net.createServer();
  await new Promise<void>((resolve) => s.listen(0, '127.0.0.1', resolve));
  const { port } = s.address() as AddressInfo;
  await new Promise((resolve) => s.close(resolve));
  return `http://127.0.0.1:${port}`;
}

void t.test('a write that may have been done is never sent to a second member', async (t) => {
  for (const [what, handler] of Object.entries({ hangs, resets, html, cutOff, huge })) {
    const bad = await new FakeMember(handler).start(t);
    const good = await new FakeMember(done).start(t);
    const ledger = client(t, [bad.endpoint, good.endpoint]);
    await t.rejects(
      ledger.txn([], put),
      { code: 'ledger-unavailable', details: { outcome: 'unknown' } },
      what,
    );
    t.equal(bad.calls, 1, `${what}: sent once`);
    t.equal(good.calls, 0, `${what}: not sent elsewhere`);
    t.ok((await ledger.txn([], put)).done, `${what}: the next call goes to the other member`);
  }
});

void t.test('a write that nobody can have seen goes to the next member', async (t) => {
  const good = await new FakeMember(done).start(t);
  const ledger = client(t, [await deadEndpoint(), good.endpoint]);
  t.ok((await ledger.txn([], put)).done);
  const none = client(t, [await deadEndpoint(), await deadEndpoint()]);
  await t.rejects(none.txn([], put), { code: 'ledger-unavailable', details: { outcome: 'not-sent' } });
  for (const message of ['etcdserver: no leader', 'etcdserver: rpc not supported for learner']) {
    const refusing = await new FakeMember(json(503, { code: 14, message })).start(t);
    const l = client(t, [refusing.endpoint, good.endpoint]);
    t.ok((await l.txn([], put)).done, message);
    const alone = client(t, [refusing.endpoint]);
    await t.rejects(
      alone.txn([], put),
      { code: 'ledger-unavailable', details: { outcome: 'refused' } },
      message,
    );
  }
  const slow = await new FakeMember(json(503, { code: 14, message: 'etcdserver: request timed out' })).start(
    t,
  );
  const l = client(t, [slow.endpoint, good.endpoint]);
  await t.rejects(
    l.txn([], put),
    { code: 'ledger-unavailable', details: { outcome: 'unknown' } },
    'a timeout inside etcd may have been done',
  );
});

void t.test('a read is tried everywhere; an error is never an absence', async (t) => {
  for (const [what, handler] of Object.entries({ hangs, resets, html, cutOff, huge })) {
    const bad = await new FakeMember(handler).start(t);
    const good = await new FakeMember(found).start(t);
    t.equal(await client(t, [bad.endpoint, good.endpoint], 2_000).get('/flotilla/x'), null, what);
    t.equal(good.calls, 1);
    const alone = client(t, [bad.endpoint]);
    await t.rejects(alone.get('/flotilla/x'), { code: 'ledger-unavailable' }, `${what}, alone`);
    await t
      .rejects(alone.list('/flotilla/'), { code: 'ledger-unavailable' }, `${what}, a list`)
      .catch(() => undefined);
  }
  for (const body of [{}, { kvs: 'none' }, { header: {}, kvs: [{ key: 'L2E=' }] }, [], null]) {
    const odd = await new FakeMember(json(200, body)).start(t);
    await t.rejects(
      client(t, [odd.endpoint]).get('/flotilla/x'),
      { code: 'ledger-unavailable' },
      JSON.stringify(body),
    );
  }
});

void t.test('after the deadline every call has ended, whatever the members do', async (t) => {
  const members = await Promise.all([hangs, hangs, hangs].map((h) => new FakeMember(h).start(t)));
  const ledger = client(
    t,
    members.map((m) => m.endpoint),
    300,
  );
  const ended = (p: Promise<unknown>) =>
    p.then(
      () => 'answered',
      (e: { code?: string }) => e.code,
    );
  const codes = await Promise.all([
    ended(ledger.get('/flotilla/x')),
    ended(ledger.txn([], put)),
    ended(ledger.grantLease(5)),
    ended(ledger.keepAlive('1')),
    ended(ledger.revokeLease('1')),
  ]);
  t.same(new Set(codes), new Set(['ledger-unavailable']));
});

void t.test('an answer that has come while this program stood still is not late', async (t) => {
  const member = await new FakeMember(found).start(t);
  // In another process, as this one stands still.
  const thread = new Worker(
    `const http = require('node:http');
     const s = http.createServer((q, r) => q.resume().on('end', () => setTimeout(() => r.end('{"header":{"revision":"7"},"kvs":[]}'), 50)));
     s.listen(0, '127.0.0.1', () => require('node:worker_threads').parentPort.postMessage(s.address().port));`,
    { eval: true },
  );
  t.teardown(() => thread.terminate());
  const [port] = (await once(thread, 'message')) as [number];
  const ledger = client(t, [`http://127.0.0.1:${port}`, member.endpoint], 2_000);
  t.equal(await ledger.get('/flotilla/x'), null);
  const reading = ledger.get('/flotilla/x');
  await new Promise((resolve) => setTimeout(resolve, 20));
  // After that come the timers, and only then what sockets have.
  await new Promise(setImmediate);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500);
  t.equal(await reading, null);
  t.equal(member.calls, 0, 'nobody else was asked');
});

void t.test('who is there and late is given more time; who is not there is not', async (t) => {
  let lateMs = 1_200;
  const late = await new FakeMember((q, r) => void setTimeout(() => found(q, r), lateMs)).start(t);
  const ledger = client(t, [late.endpoint], 500);
  const read = (): Promise<unknown> => ledger.get('/flotilla/x');
  await t.rejects(read(), { code: 'ledger-unavailable' });
  await t.rejects(read(), { code: 'ledger-unavailable' });
  t.equal(await read(), null, 'the third time it is waited for');
  lateMs = 0;
  for (let i = 0; i < 20; i++) await read();
  lateMs = 1_200;
  await t.rejects(read(), { code: 'ledger-unavailable' }, 'and no longer than before when it is quick again');
  const nobody = client(t, [await deadEndpoint()], 200);
  for (let i = 0; i < 3; i++) await t.rejects(nobody.get('/flotilla/x'), { code: 'ledger-unavailable' });
});

void t.test('a lease that is gone is zero; a member that fails is not', async (t) => {
  const gone = await new FakeMember(
    json(404, { code: 5, message: 'etcdserver: requested lease not found' }),
  ).start(t);
  t.equal(await client(t, [gone.endpoint]).keepAlive('5'), 0);
  const expired = await new FakeMember(json(200, { result: { ID: '5' } })).start(t);
  t.equal(await client(t, [expired.endpoint]).keepAlive('5'), 0);
  const broken = await new FakeMember(json(500, { code: 13, message: 'internal' })).start(t);
  await t.rejects(client(t, [broken.endpoint]).keepAlive('5'), { code: 'ledger-unavailable' });
});

void t.test('answers of etcd 3.4 are understood too', async (t) => {
  const full = await new FakeMember(
    json(429, {
      error: 'etcdserver: mvcc: database space exceeded',
      code: 8,
      message: 'etcdserver: mvcc: database space exceeded',
    }),
  ).start(t);
  await t.rejects(client(t, [full.endpoint]).txn([], put), { code: 'ledger-full' });
  const gone = await new FakeMember(
    json(404, { error: 'etcdserver: requested lease not found', code: 5 }),
  ).start(t);
  await t.rejects(client(t, [gone.endpoint]).txn([], put), { code: 'not-found' });
});

void t.test('lines of a watch', async (t) => {
  const kinds: [string, string][] = [
    ['{"result":{"header":{},"created":true}}', 'ring'],
    ['{"result":{"header":{},"events":[{"kv":{}}]}}', 'ring'],
    ['{"result":{"header":{"revision":"3"}}}', 'quiet'],
    ['{"result":{"header":{},"canceled":true,"compact_revision":"5"}}', 'end'],
    ['{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}', 'end'],
    ['{"result":', 'end'],
    ['', 'end'],
    ['null', 'end'],
    ['[]', 'end'],
    ['"x"', 'end'],
  ];
  for (const [line, kind] of kinds) t.equal(lineKind(line), kind, line);
});

void t.test('a watch that fell silent is opened again, at another member, and rings', async (t) => {
  const created = '{"result":{"header":{},"created":true}}\n';
  const mute = await new FakeMember((_, res) => void res.write(created)).start(t);
  const next = await new FakeMember((_, res) => void res.write(created)).start(t);
  const gateway = new Gateway({
    endpoints: [mute.endpoint, next.endpoint],
    tls: null,
    insecureForTests: true,
  });
  const watcher = new Watcher(gateway, { silenceMs: 400 });
  t.teardown(() => {
    watcher.close();
    gateway.close();
  });
  let rings = 0;
  const stop = watcher.watch('/flotilla/', () => rings++);
  await until('the second member to be asked', () => next.calls > 0 && rings >= 2);
  stop();
  const calls = mute.calls + next.calls;
  t.equal(calls, rings, 'one ring for each connection');
});

void t.test('one stream serves all who watch one prefix', async (t) => {
  const streams: http.ServerResponse[] = [];
  const member = await new FakeMember((_, res) => {
    streams.push(res);
    res.write('{"result":{"created":true}}\n');
  }).start(t);
  const gateway = new Gateway({ endpoints: [member.endpoint], tls: null, insecureForTests: true });
  const watcher = new Watcher(gateway);
  t.teardown(() => {
    watcher.close();
    gateway.close();
  });
  let a = 0;
  let b = 0;
  const wake = () => a++;
  const stopA = watcher.watch('/flotilla/', wake);
  const stopAgain = watcher.watch('/flotilla/', wake);
  const stopB = watcher.watch('/flotilla/', () => b++);
  await until('the stream', () => a === 2 && b === 1);
  stopAgain();
  streams[0]?.write('{"result":{"events":[{"kv":{}}]}}\n');
  await until('the event', () => b === 2);
  t.equal(a, 3);
  t.equal(member.calls, 1);
  stopA();
  stopB();
  await until(
    'the stream to be closed',
    () => streams[0]?.destroyed === true || streams[0]?.writableEnded === true,
  );
});

await t.test('calls go first to a member that answers, the first of the list where it does', async (t) => {
  const range = json(200, { header: { revision: '1' } });
  const [deaf, well, also] = await Promise.all(
    [(): void => undefined, range, range].map((h) => new FakeMember(h).start(t)),
  );
  const to = async (...members: (FakeMember | undefined)[]): Promise<string> => {
    const endpoints = members.map((m) => m?.endpoint ?? '');
    const g = new Gateway({ endpoints, tls: null, insecureForTests: true });
    await g.prefer();
    g.close();
    return g.current;
  };
  t.equal(await to(well, also), well?.endpoint);
  t.equal(await to(deaf, well), well?.endpoint);
  t.equal(await to(deaf), deaf?.endpoint, 'where none answers all stays as it is');
});

await t.test('the own member is gone back to when it answers again', async (t) => {
  let leads = true;
  const noLeader = json(503, { error: 'etcdserver: no leader', code: 14, message: 'etcdserver: no leader' });
  const own = await new FakeMember((q, s) => (leads ? found : noLeader)(q, s)).start(t);
  const other = await new FakeMember(found).start(t);
  const g = new Gateway({ endpoints: [own.endpoint, other.endpoint], tls: null, insecureForTests: true });
  t.teardown(() => g.close());
  const read = async (): Promise<unknown> => g.call('/v3/kv/range', { key: 'AA==' }, { kind: 'read' });
  leads = false;
  await read();
  t.equal(g.current, other.endpoint);
  const tried = own.calls;
  await until('it is tried, in vain', async () => (await read(), own.calls > tried + 1));
  t.equal(g.current, other.endpoint);
  leads = true;
  await until('it is back', async () => (await read(), g.current === own.endpoint));
});

import t from 'tap';
import { RpcConnection, type ConnectionOptions } from '../../../../agent/libvirt/client.js';
import { Counters } from '../../../../agent/libvirt/counters.js';
import { LibvirtError, type CallOutcome, type LibvirtErrorCode } from '../../../../agent/libvirt/error.js';
import { Keys } from '../../../../agent/libvirt/keys.js';
import { KEEPALIVE, MESSAGE, PROGRAM, STATUS } from '../../../../agent/libvirt/protocol.js';
import { nothing, string, u32 } from '../../../../agent/libvirt/xdr.js';
import { FakeDaemon } from './fake-daemon.js';

const FAR = { deadlineMs: 60_000 };
const NEAR = { deadlineMs: 20 };
const ID = '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
const domain = { name: 'vm', uuid: ID, id: -1 };

async function opened(
  t: Tap,
  options: Partial<ConnectionOptions> = {},
): Promise<{ fake: FakeDaemon; rpc: RpcConnection }> {
  const fake = new FakeDaemon();
  await fake.listen();
  const rpc = new RpcConnection({ socketPath: fake.socketPath, ...options });
  t.teardown(async () => {
    rpc.close();
    await fake.dispose();
  });
  await rpc.connect();
  return { fake, rpc };
}
type Tap = Pick<typeof t, 'teardown' | 'equal'>;

async function fails(
  t: Tap,
  promise: Promise<unknown>,
  code: LibvirtErrorCode,
  outcome: CallOutcome,
): Promise<LibvirtError> {
  const error: unknown = await promise.then(
    () => new Error('it did not fail'),
    (e: unknown) => e,
  );
  if (!(error instanceof LibvirtError)) throw error;
  t.equal(error.code, code, error.message);
  t.equal(error.outcome, outcome);
  return error;
}

await t.test('call and answer, in any order', async (t) => {
  const { fake, rpc } = await opened(t);
  const a = rpc.call('connectGetHostname', undefined, FAR);
  const b = rpc.call('connectGetVersion', undefined, FAR);
  fake.reply(await fake.call(1), { version: 10_000_013n });
  t.same(await b, { version: 10_000_013n });
  fake.reply(await fake.call(0), { hostname: 'n1' });
  t.same(await a, { hostname: 'n1' });
});

await t.test("the daemon's error keeps its number and says which call and domain", async (t) => {
  const { fake, rpc } = await opened(t);
  const call = rpc.call('domainReset', { domain, flags: 0 }, { ...FAR, key: ID });
  fake.refuse(await fake.call(0), 55, 'domain is not running');
  const error = await fails(t, call, 'invalid-state', 'refused');
  t.match(error, {
    libvirtCode: 55,
    libvirtDomain: 10,
    level: 2,
    procedure: 'domainReset',
    domainId: ID,
    message: 'domain is not running',
  });
  const unknown = rpc.call('domainReset', { domain, flags: 0 }, FAR);
  fake.refuse(await fake.call(1), 9999, 'new trouble');
  t.equal((await fails(t, unknown, 'refused', 'refused')).libvirtCode, 9999);
});

await t.test('at most four in flight, the rest waits its turn', async (t) => {
  const { fake, rpc } = await opened(t);
  const calls = Array.from({ length: 6 }, () => rpc.call('connectGetHostname', undefined, FAR));
  await fake.call(3);
  // a round trip of another connection proves that nothing more was on its way
  const other = new RpcConnection({ socketPath: fake.socketPath });
  await other.connect();
  other.close();
  t.equal(fake.arrived.length, 4);
  fake.reply(await fake.call(0), { hostname: 'a' });
  await fake.call(4);
  t.equal(fake.arrived.length, 5);
  for (let i = 1; i < 6; i++) fake.reply(await fake.call(i), { hostname: 'a' });
  t.equal((await Promise.all(calls)).length, 6);
});

await t.test('a full queue refuses', async (t) => {
  const { fake, rpc } = await opened(t, { inFlightMax: 1, queueMax: 2 });
  const calls = [1, 2, 3].map(() => rpc.call('connectGetHostname', undefined, FAR));
  await fails(t, rpc.call('connectGetHostname', undefined, FAR), 'overloaded', 'not-sent');
  for (let i = 0; i < 3; i++) fake.reply(await fake.call(i), { hostname: 'a' });
  await Promise.all(calls);
});

await t.test('no deadline is a very long one', async (t) => {
  const { fake, rpc } = await opened(t);
  const call = rpc.call('connectGetHostname', undefined, { deadlineMs: Infinity });
  fake.reply(await fake.call(0), { hostname: 'x' });
  t.same(await call, { hostname: 'x' });
});

await t.test('a deadline frees the caller, the late answer frees the place', async (t) => {
  const late: number[] = [];
  const { fake, rpc } = await opened(t, { inFlightMax: 1, onLate: (n) => late.push(n) });
  await fails(t, rpc.call('connectGetHostname', undefined, NEAR), 'deadline', 'unknown');
  t.equal(rpc.late, 1);
  t.same(late, [1]);
  await fails(t, rpc.call('connectGetVersion', undefined, NEAR), 'deadline', 'not-sent');
  const next = rpc.call('connectGetLibVersion', undefined, FAR);
  fake.reply(await fake.call(0), { hostname: 'late' });
  const call = await fake.call(1);
  t.equal(call.name, 'connectGetLibVersion');
  fake.reply(call, { version: 1n });
  t.same(await next, { version: 1n });
  t.equal(rpc.late, 0);
});

await t.test('one call per domain at a time; a domain that hangs refuses, others go on', async (t) => {
  const keys = new Keys();
  const { fake, rpc } = await opened(t, { keys });
  const second = new RpcConnection({ socketPath: fake.socketPath, keys });
  t.teardown(() => second.close());
  await second.connect();
  const one = rpc.call('domainReset', { domain, flags: 1 }, { ...FAR, key: ID });
  const two = second.call('domainReset', { domain, flags: 2 }, { ...FAR, key: ID });
  const other = second.call('domainReset', { domain, flags: 3 }, { ...FAR, key: 'another' });
  t.same((await fake.call(0)).args, { domain, flags: 1 });
  t.same((await fake.call(1)).args, { domain, flags: 3 });
  fake.reply(await fake.call(0), undefined);
  t.same(
    (await fake.call(2)).args,
    { domain, flags: 2 },
    'goes when the first on the other connection is done',
  );
  fake.reply(await fake.call(1), undefined);
  fake.reply(await fake.call(2), undefined);
  await Promise.all([one, two, other]);

  await fails(t, rpc.call('domainReset', { domain, flags: 4 }, { ...NEAR, key: ID }), 'deadline', 'unknown');
  await fails(t, second.call('domainReset', { domain, flags: 5 }, { ...FAR, key: ID }), 'busy', 'not-sent');
  fake.reply(await fake.call(3), undefined);
  while (rpc.late > 0) await new Promise((resolve) => setImmediate(resolve));
  const again = second.call('domainReset', { domain, flags: 6 }, { ...FAR, key: ID });
  fake.reply(await fake.call(4), undefined);
  await again;
});

await t.test('when the daemon dies every call is told, and whether it was sent', async (t) => {
  const closed: LibvirtError[] = [];
  const { fake, rpc } = await opened(t, { inFlightMax: 2, onClose: (e) => closed.push(e) });
  const calls = [1, 2, 3, 4].map(() => rpc.call('connectGetHostname', undefined, FAR));
  await fake.call(1);
  fake.drop();
  const [a, b, c, d] = calls;
  for (const sent of [a, b]) await fails(t, sent ?? Promise.resolve(), 'disconnected', 'unknown');
  for (const waiting of [c, d]) await fails(t, waiting ?? Promise.resolve(), 'disconnected', 'not-sent');
  await fails(t, rpc.call('connectGetHostname', undefined, FAR), 'disconnected', 'not-sent');
  t.equal(closed.length, 1);
  t.equal(rpc.isOpen, false);
});

await t.test('values that do not fit the wire are refused before sending', async (t) => {
  const { fake, rpc } = await opened(t);
  const wrong = [
    rpc.call('domainReset', { domain: { ...domain, uuid: 'nonsense' }, flags: 0 }, FAR),
    rpc.call('domainReset', { domain, flags: -1 }, FAR),
    rpc.call('domainLookupByName', { name: 'a\0b' }, FAR),
    rpc.call('domainCreateXml', { xml: 'x'.repeat(5 << 20), flags: 0 }, FAR),
  ];
  for (const call of wrong) await fails(t, call, 'invalid-argument', 'not-sent');
  const good = rpc.call('connectGetHostname', undefined, FAR);
  fake.reply(await fake.call(0), { hostname: 'still fine' });
  t.same(await good, { hostname: 'still fine' });
});

await t.test('hostile frames: refused with a reason, connection closed, calls told', async (t) => {
  const reply = {
    program: PROGRAM.remote,
    version: 1,
    procedure: 59,
    type: MESSAGE.reply,
    serial: 4,
    status: STATUS.ok,
  };
  const attacks: Record<string, (fake: FakeDaemon) => Promise<void> | void> = {
    'frame of 4294967295 bytes': (fake) => void each(fake, (s) => s.write(Buffer.alloc(4, 0xff))),
    'frame of 12 bytes': (fake) => void each(fake, (s) => s.write(Buffer.from('0000000c', 'hex'))),
    'frame of 1195725856 bytes': (fake) => void each(fake, (s) => s.write('GET / HTTP/1.1\r\n\r\n')),
    'serial 77': (fake) => void each(fake, (s) => fake.send(s, { ...reply, serial: 77 }, string, 'x')),
    'procedure 4': async (fake) => {
      const { header, socket } = await fake.call(0);
      fake.send(socket, { ...header, type: MESSAGE.reply, procedure: 4 }, string, 'x');
    },
    'ends early': async (fake) => {
      const { header, socket } = await fake.call(0);
      fake.send(socket, { ...header, type: MESSAGE.reply }, u32, 99);
    },
    'bytes more': async (fake) => {
      const { header, socket } = await fake.call(0);
      fake.send(
        socket,
        { ...header, type: MESSAGE.reply },
        { read: () => '', write: (w) => [1, 0x41000000, 1].forEach((n) => w.u32(n)) },
        '',
      );
    },
    'reply with status 7': async (fake) => {
      const { header, socket } = await fake.call(0);
      fake.send(socket, { ...header, type: MESSAGE.reply, status: 7 }, string, 'x');
    },
    'unknown program': (fake) =>
      void each(fake, (s) => fake.send(s, { ...reply, program: 1 }, nothing, undefined)),
    'program version 2': (fake) =>
      void each(fake, (s) => fake.send(s, { ...reply, version: 2 }, nothing, undefined)),
    'message type 0': (fake) =>
      void each(fake, (s) => fake.send(s, { ...reply, type: 0 }, nothing, undefined)),
    'which no stream has': (fake) =>
      void each(fake, (s) => fake.send(s, { ...reply, type: MESSAGE.stream }, nothing, undefined)),
  };
  for (const [why, attack] of Object.entries(attacks)) {
    await t.test(why, async (t) => {
      const counters = new Counters();
      const closed: LibvirtError[] = [];
      const { fake, rpc } = await opened(t, { counters, onClose: (e) => closed.push(e) });
      const call = rpc.call('connectGetHostname', undefined, FAR);
      call.catch(() => undefined);
      await fake.call(0);
      await attack(fake);
      const error = await fails(t, call, 'protocol', 'unknown');
      t.match(error.message, why);
      t.equal(closed[0]?.code, 'protocol');
      t.equal(counters.unreadable, 1);
    });
  }
});

function each(fake: FakeDaemon, act: (socket: import('node:net').Socket) => void): void {
  for (const socket of fake.sockets) act(socket);
}

await t.test(
  'events arrive; one that cannot be read is counted and told, the connection lives',
  async (t) => {
    const counters = new Counters();
    const kinds: string[] = [];
    let unreadable = 0;
    const { fake, rpc } = await opened(t, {
      counters,
      onEvent: (e) => kinds.push(e.kind),
      onUnreadableEvent: () => unreadable++,
    });
    const event = { program: PROGRAM.remote, version: 1, type: MESSAGE.event, serial: 0, status: STATUS.ok };
    each(fake, (s) => {
      fake.send(s, { ...event, procedure: 999 }, nothing, undefined);
      fake.send(s, { ...event, procedure: 318 }, u32, 1);
      fake.send(
        s,
        { ...event, procedure: 319 },
        { read: () => '', write: (w) => [1, 0, 0, 0, 0, 0, 5].forEach((n) => w.u32(n)) },
        '',
      );
    });
    const call = rpc.call('connectGetHostname', undefined, FAR);
    fake.reply(await fake.call(0), { hostname: 'x' });
    await call;
    t.same(kinds, ['reboot']);
    t.equal(unreadable, 2);
    t.equal(counters.unreadable, 2);
    t.equal(counters.events.get('reboot'), 1);
  },
);

await t.test('asked whether it lives, it says so', async (t) => {
  const { fake } = await opened(t);
  const ping = {
    program: PROGRAM.keepalive,
    version: 1,
    procedure: KEEPALIVE.ping,
    type: MESSAGE.event,
    serial: 0,
    status: STATUS.ok,
  };
  each(fake, (s) => fake.send(s, ping, nothing, undefined));
  await fake.until('a pong', () => fake.pongs.length > 0);
  t.same(fake.pongs[0]?.header, { ...ping, procedure: KEEPALIVE.pong });
});

await t.test('opening: refused authentication, silence, nobody there', async (t) => {
  const fake = new FakeDaemon();
  t.teardown(() => fake.dispose());
  const rpc = (): RpcConnection => new RpcConnection({ socketPath: fake.socketPath });
  await fails(t, rpc().connect(), 'disconnected', 'not-sent');
  await fake.listen();
  fake.authTypes = [1, 2];
  const denied = await fails(t, rpc().connect(), 'denied', 'refused');
  t.match(denied.message, 'auth_unix_rw');
  fake.mute = true;
  const silent = await fails(t, rpc().connect(20), 'deadline', 'not-sent');
  t.match(silent.message, 'within 20 ms', 'the whole time, not what was left of it for the last step');
  await fails(t, rpc().call('connectGetHostname', undefined, FAR), 'disconnected', 'not-sent');
});

await t.test('streams: data both ways, end by either side, abort, error', async (t) => {
  const { fake, rpc } = await opened(t);
  const open = async (
    n: number,
  ): Promise<{ call: Awaited<ReturnType<FakeDaemon['call']>>; stream: import('node:stream').Duplex }> => {
    const opening = rpc.callStream('domainOpenConsole', { domain, device: null, flags: 0 }, FAR);
    const call = await fake.call(n);
    fake.reply(call, undefined);
    return { call, stream: (await opening).stream };
  };
  const collect = async (stream: AsyncIterable<unknown>): Promise<string> => {
    let text = '';
    for await (const chunk of stream) text += String(chunk);
    return text;
  };

  const daemonEnds = await open(0);
  daemonEnds.stream.write('hello');
  await fake.until('data', () => fake.streamFrames.length === 1);
  t.equal(fake.streamFrames[0]?.body.toString(), 'hello');
  t.equal(fake.streamFrames[0]?.header.status, STATUS.continue);
  fake.stream(daemonEnds.call, STATUS.continue, Buffer.from('abc'));
  fake.stream(daemonEnds.call, STATUS.continue, Buffer.from('def'));
  fake.stream(daemonEnds.call, STATUS.continue, Buffer.alloc(0));
  t.equal(await collect(daemonEnds.stream), 'abcdef');
  await fake.until('our good-bye', () => fake.streamFrames.some((f) => f.header.status === STATUS.ok));
  fake.stream(daemonEnds.call, STATUS.ok, Buffer.alloc(0));

  const weEnd = await open(1);
  weEnd.stream.end('bye');
  weEnd.stream.resume();
  await fake.until('our end', () =>
    fake.streamFrames.some(
      (f) => f.header.serial === weEnd.call.header.serial && f.header.status === STATUS.ok,
    ),
  );
  fake.stream(weEnd.call, STATUS.ok, Buffer.alloc(0));

  const weAbort = await open(2);
  weAbort.stream.destroy();
  await fake.until('our abort', () =>
    fake.streamFrames.some(
      (f) => f.header.serial === weAbort.call.header.serial && f.header.status === STATUS.error,
    ),
  );
  fake.stream(weAbort.call, STATUS.continue, Buffer.from('still on its way'));
  fake.stream(weAbort.call, STATUS.ok, Buffer.alloc(0));

  const cut = await open(3);
  const failed = new Promise<Error>((resolve) => cut.stream.once('error', resolve));
  fake.drop();
  t.match(await failed, { code: 'disconnected' });
});

await t.test('stream data may come before the reply', async (t) => {
  const { fake, rpc } = await opened(t);
  const open = (): ReturnType<typeof rpc.callStream<'domainScreenshot'>> =>
    rpc.callStream('domainScreenshot', { domain, screen: 0, flags: 0 }, FAR);
  const early = open();
  const call = await fake.call(0);
  const pieces = Array.from({ length: 8 }, (_, i) => Buffer.alloc(100_000, i));
  for (const piece of pieces) fake.stream(call, STATUS.continue, piece);
  fake.stream(call, STATUS.continue, Buffer.alloc(0));
  fake.reply(call, { mime: 'image/png' });
  const { reply, stream } = await early;
  t.same(reply, { mime: 'image/png' });
  const got: Buffer[] = [];
  for await (const piece of stream) got.push(piece as Buffer);
  t.ok(Buffer.concat(got).equals(Buffer.concat(pieces)));

  const refused = open();
  fake.refuse(await fake.call(1), 55, 'not running');
  await fails(t, refused, 'invalid-state', 'refused');

  const broken = open();
  const third = await fake.call(2);
  fake.streamError(third, 38, 'cannot read the picture');
  fake.reply(third, { mime: 'image/png' });
  await fails(t, broken, 'refused', 'refused');
  t.equal(rpc.isOpen, true);
});

await t.test('a slow reader holds the daemon back instead of filling memory', async (t) => {
  const { fake, rpc } = await opened(t);
  const opening = rpc.callStream('domainOpenConsole', { domain, device: null, flags: 0 }, FAR);
  const call = await fake.call(0);
  fake.reply(call, undefined);
  const { stream } = await opening;
  stream.read(0);
  const sentMax = 64 << 20;
  const piece = Buffer.alloc(1 << 18);
  let sent = 0;
  // the fake's own buffer fills when nobody reads at the other end
  while (call.socket.writableLength < 8 << 20 && sent < sentMax) {
    fake.stream(call, STATUS.continue, piece);
    sent += piece.length;
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.ok(sent < sentMax, `stopped after ${sent >> 20} MiB`);
  t.ok(stream.readableLength < 2 << 20);
  fake.stream(call, STATUS.continue, Buffer.alloc(0));
  let got = 0;
  for await (const chunk of stream) got += (chunk as Buffer).length;
  t.equal(got, sent);
});

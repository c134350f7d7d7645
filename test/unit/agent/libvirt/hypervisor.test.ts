import t from 'tap';
import { BACKLOG_MAX } from '../../../../agent/libvirt/event-hub.js';
import { LibvirtError, type CallOutcome, type LibvirtErrorCode } from '../../../../agent/libvirt/error.js';
import type { HostEvent } from '../../../../agent/libvirt/hypervisor.js';
import { LibvirtHypervisor } from '../../../../agent/libvirt/libvirt-hypervisor.js';
import { MESSAGE, PROGRAM, STATUS } from '../../../../agent/libvirt/protocol.js';
import { FakeDaemon } from './fake-daemon.js';

const ID = '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
type Tap = Pick<typeof t, 'teardown' | 'equal'>;

const NEAR = { deadlineMs: 20 };

async function opened(t: Tap): Promise<{ fake: FakeDaemon; hypervisor: LibvirtHypervisor }> {
  const fake = new FakeDaemon();
  await fake.listen();
  const hypervisor = new LibvirtHypervisor({ socketPath: fake.socketPath });
  t.teardown(async () => {
    await hypervisor.close();
    await fake.dispose();
  });
  hypervisor.open();
  await hypervisor.waitConnected();
  return { fake, hypervisor };
}

async function fails(
  t: Tap,
  promise: Promise<unknown>,
  code: LibvirtErrorCode,
  outcome?: CallOutcome,
): Promise<LibvirtError> {
  const error: unknown = await promise.then(
    () => new Error('it did not fail'),
    (e: unknown) => e,
  );
  if (!(error instanceof LibvirtError)) throw error;
  t.equal(error.code, code, error.message);
  if (outcome !== undefined) t.equal(error.outcome, outcome);
  return error;
}

/** reads events by hand, so that a test sees each in its turn */
function reader(hypervisor: LibvirtHypervisor, signal?: AbortSignal): () => Promise<HostEvent | undefined> {
  const events = hypervisor.events(signal)[Symbol.asyncIterator]();
  return async () => {
    const next = await events.next();
    return next.done === true ? undefined : next.value;
  };
}

await t.test(
  'a new reader is told to read everything; a lost daemon too, and again when it is back',
  async (t) => {
    const { fake, hypervisor } = await opened(t);
    const next = reader(hypervisor);
    t.same(await next(), { type: 'resync', why: 'connected' });
    const waiting = hypervisor.state(ID);
    await fake.call(0);
    fake.drop();
    await fails(t, waiting, 'disconnected', 'unknown');
    t.match(await next(), { type: 'disconnected', error: { code: 'disconnected' } });
    t.same(await next(), { type: 'resync', why: 'reconnected' });
    t.equal(hypervisor.connected, true);
    const again = hypervisor.state(ID);
    fake.reply(await fake.call(1), { state: 1, reason: 1 });
    t.same(await again, { state: 'running', reason: 'booted' });
  },
);

await t.test('without a daemon calls fail at once and say why; it is found when it comes', async (t) => {
  const fake = new FakeDaemon();
  const hypervisor = new LibvirtHypervisor({ socketPath: fake.socketPath });
  t.teardown(async () => {
    await hypervisor.close();
    await fake.dispose();
  });
  hypervisor.open();
  let late = await fails(t, hypervisor.waitConnected(30), 'deadline', 'not-sent');
  while (late.cause === undefined)
    late = await fails(t, hypervisor.waitConnected(30), 'deadline', 'not-sent');
  t.match(late.cause, { code: 'disconnected', cause: { code: 'ENOENT' } });
  await fails(t, hypervisor.list(), 'disconnected', 'not-sent');
  await fails(t, hypervisor.xml(ID), 'disconnected', 'not-sent');
  await fails(t, hypervisor.migrate(ID, { uri: 'x' }, { mode: 'live' }).done, 'disconnected', 'not-sent');
  await fake.listen();
  await hypervisor.waitConnected();
  t.equal(hypervisor.connected, true);
});

await t.test('a daemon that answers nothing any more counts as lost', async (t) => {
  const { fake, hypervisor } = await opened(t);
  const next = reader(hypervisor);
  await next();
  fake.mute = true;
  for (let i = 0; i < 4; i++) await fails(t, hypervisor.list(NEAR), 'deadline', 'unknown');
  const lost = await next();
  t.match(lost, { type: 'disconnected' });
  await fails(t, hypervisor.list(NEAR), 'disconnected', 'not-sent');
});

await t.test('hanging domains are refused, others get a fresh connection', async (t) => {
  const { fake, hypervisor } = await opened(t);
  const id = (n: number): string => ID.slice(0, -1) + String(n);
  // opens the connection, so that the short deadlines below are about answers only
  const first = hypervisor.reset(id(0));
  fake.reply(await fake.call(0), undefined);
  await first;
  await fails(t, hypervisor.reset(id(1), NEAR), 'deadline', 'unknown');
  await fails(t, hypervisor.reset(id(2), NEAR), 'deadline', 'unknown');
  await fails(t, hypervisor.reset(id(1)), 'busy', 'not-sent');
  await fails(t, hypervisor.suspend(id(2)), 'busy', 'not-sent');
  const third = hypervisor.reset(id(3));
  const [one, two, three] = [await fake.call(1), await fake.call(2), await fake.call(3)];
  t.equal(one.socket, two.socket);
  t.not(three.socket, one.socket, 'not behind the two that hang');
  fake.reply(three, undefined);
  await third;
  // killing is never refused
  const kill = hypervisor.stop(id(1), 'destroy');
  fake.reply(await fake.call(4), undefined);
  await kill;
  const gone = new Promise((resolve) => one.socket.once('close', resolve));
  fake.reply(one, undefined);
  fake.reply(two, undefined);
  await gone;
  const back = hypervisor.reset(id(1));
  fake.reply(await fake.call(5), undefined);
  await back;
});

await t.test('a caller in a hurry does not spoil the connection for the others', async (t) => {
  const { fake, hypervisor } = await opened(t);
  fake.hold = true;
  const patient = hypervisor.reset(ID);
  await fails(t, hypervisor.suspend(ID, NEAR), 'deadline', 'not-sent');
  fake.release();
  fake.reply(await fake.call(0), undefined);
  await patient;
});

await t.test('a reader that falls behind is told to read everything again', async (t) => {
  const { fake, hypervisor } = await opened(t);
  const next = reader(hypervisor);
  const fast = reader(hypervisor);
  t.same(await next(), { type: 'resync', why: 'connected' });
  await fast();
  const header = {
    program: PROGRAM.remote,
    version: 1,
    procedure: 319,
    type: MESSAGE.event,
    serial: 0,
    status: STATUS.ok,
  };
  const body = {
    read: () => '',
    write: (w: { u32(n: number): void }) => [1, 0, 0, 0, 0, 0, 5].forEach((n) => w.u32(n)),
  };
  for (let i = 0; i <= BACKLOG_MAX; i++) {
    for (const socket of fake.sockets) fake.send(socket, header, body, '');
    if ((await fast())?.type !== 'reboot') t.fail('the fast reader misses one');
  }
  t.same(await next(), { type: 'resync', why: 'overflow' });
});

await t.test('an event nobody can read means: read everything again', async (t) => {
  const { fake, hypervisor } = await opened(t);
  const next = reader(hypervisor);
  await next();
  const header = {
    program: PROGRAM.remote,
    version: 1,
    procedure: 999,
    type: MESSAGE.event,
    serial: 0,
    status: STATUS.ok,
  };
  for (const socket of fake.sockets)
    fake.send(socket, header, { read: () => '', write: () => undefined }, '');
  t.same(await next(), { type: 'resync', why: 'unreadable' });
  t.equal(hypervisor.counters.unreadable, 1);
});

await t.test('readers end with their signal or with the hypervisor', async (t) => {
  const { hypervisor } = await opened(t);
  const abort = new AbortController();
  const one = reader(hypervisor, abort.signal);
  const two = reader(hypervisor);
  await Promise.all([one(), two()]);
  const [endOfOne, endOfTwo] = [one(), two()];
  abort.abort();
  t.equal(await endOfOne, undefined);
  await hypervisor.close();
  t.equal(await endOfTwo, undefined);
  t.equal(await reader(hypervisor)(), undefined);
  await fails(t, hypervisor.list(), 'closed', 'not-sent');
  await hypervisor.close();
});

await t.test('a job that is cancelled before the daemon knows it is cancelled all the same', async (t) => {
  const { fake, hypervisor } = await opened(t);
  const job = hypervisor.migrate(ID, { uri: 'qemu+tcp://x/system' }, { mode: 'live' });
  const moving = await fake.call(0);
  t.equal(moving.name, 'domainMigratePerform3Params');
  t.match(moving.args, { domain: { uuid: ID }, uri: 'qemu+tcp://x/system', flags: 3, params: [] });
  const cancelled = job.cancel();
  fake.refuse(await fake.call(1), 55, 'no job is active on the domain');
  const second = await fake.call(2);
  t.equal(second.name, 'domainAbortJob');
  fake.reply(second, undefined);
  await cancelled;
  fake.refuse(moving, 1, 'internal error: cancelled by client');
  const error = await fails(t, job.done, 'aborted', 'refused');
  t.equal(error.libvirtCode, 1);
});

await t.test('a block copy that ends unseen says that it does not know', async (t) => {
  const { fake, hypervisor } = await opened(t);
  const job = hypervisor.blockCopy(ID, 'vda', '<disk/>', { finish: 'pivot' });
  fake.reply(await fake.call(0), undefined);
  fake.reply(await fake.call(1), { found: 0, type: 0, bandwidth: 0n, current: 0n, end: 0n });
  await fails(t, job.done, 'disconnected', 'unknown');
});

await t.test("the guest agent's and the monitor's answers", async (t) => {
  const { fake, hypervisor } = await opened(t);
  const good = hypervisor.agent(ID, 'guest-get-host-name', undefined, { deadlineMs: 2500 });
  const call = await fake.call(0);
  t.match(call.args, { command: '{"execute":"guest-get-host-name"}', timeoutS: 3 });
  fake.reply(call, { result: '{"return":{"host-name":"vm"}}' });
  t.same(await good, { 'host-name': 'vm' });
  const bad = hypervisor.monitor(ID, 'nonsense', { a: 1 });
  fake.reply(await fake.call(1), { result: '{"id":"x","error":{"class":"CommandNotFound","desc":"no"}}' });
  t.match(await fails(t, bad, 'refused'), { message: /CommandNotFound/ });
  const garbage = hypervisor.monitor(ID, 'nonsense');
  fake.reply(await fake.call(2), { result: '{' });
  await fails(t, garbage, 'protocol');
});

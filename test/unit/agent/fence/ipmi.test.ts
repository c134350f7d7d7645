import t from 'tap';
import { errorRecord } from '../../../../core/domain/error.js';
import { fencingDeviceSchema, sameMachine, type FencingDevice } from '../../../../core/domain/fencing.js';
import { freePorts, until } from '../ledger/real-etcd.js';
import { descendants, IpmiBmc, isAlive, Programs } from './rig.js';

/** Debian's fence_ipmilan and ipmitool against OpenIPMI's simulator of a BMC. */

// All that a shell, a line of name=value or a getopt could stumble over, of what the simulator's file can hold.
const password = "-#$x=';`&\\%s";
const programs = await (await Programs.make()).start();
const { fence } = programs;
const [port = 0, closedPort = 0] = await freePorts(2);
const bmc = new IpmiBmc({ dir: programs.dir, port });
await bmc.start({ user: 'flotilla', password });
t.teardown(async () => {
  await bmc.stop();
  await programs.stop();
});

const device = fencingDeviceSchema.parse({
  kind: 'ipmi',
  address: '127.0.0.1',
  port,
  user: 'flotilla',
  password,
  cipher: 3,
});
const soon = { deadlineMs: 30_000 };

await t.test('a node that is on is powered off, and the BMC says so', async (t) => {
  await bmc.set('works', 'on');
  t.same(await fence.status(device, soon), { kind: 'answers', power: 'on' });
  t.same(await fence.off(device, soon), { kind: 'confirmed-off' });
  t.notOk(await bmc.isOn());
  const calls = await bmc.calls();
  t.ok(calls.includes('set power 0'));
  t.equal(calls.at(-1), 'get power', 'the last word is an answer, not an order');
  t.same(await fence.status(device, soon), { kind: 'answers', power: 'off' });
});

await t.test(
  'a node that is off is powered on, and the BMC says so; one that stays off is not confirmed',
  async (t) => {
    await bmc.set('works', 'off');
    t.same(await fence.on(device, soon), { kind: 'confirmed-on' });
    t.ok(await bmc.isOn());
    t.same(await fence.on(device, soon), { kind: 'confirmed-on' }, 'again');
    await bmc.set('stuck', 'off');
    t.match(await fence.on(device, { deadlineMs: 10_000 }), { kind: 'not-confirmed' });
  },
);

await t.test('it says which machine it belongs to, and hears no order', async (t) => {
  await bmc.set('works', 'on');
  const said = await fence.identify(device, soon);
  t.equal(said.kind, 'answers');
  // As the simulator was told, in whatever order of bytes it has them.
  const uuid = said.kind === 'answers' ? said.uuid : null;
  t.equal(sameMachine(uuid ?? '', 'a1234567-89ab-cdef-a123-456789abcdef'), true, uuid ?? 'none');
  t.equal(sameMachine(uuid ?? '', 'b1234567-89ab-cdef-a123-456789abcdef'), false);
  t.same(await bmc.calls(), [], 'the chassis heard nothing');
  t.notOk((await programs.starts()).includes(password));
  t.match(await fence.identify({ ...device, password: 'Wr0ng!' }, soon), {
    kind: 'no-answer',
    error: { code: 'fence-failed', hint: /user and password/ },
  });
});

await t.test('a node that is off already is confirmed', async (t) => {
  await bmc.set('works', 'off');
  t.same(await fence.off(device, soon), { kind: 'confirmed-off' });
});

await t.test('the password is in no command line and no environment', async (t) => {
  await bmc.set('works', 'on');
  await fence.off(device, soon);
  const starts = await programs.starts();
  t.match(starts, /chassis power off/);
  t.match(starts, /-U flotilla/);
  t.notOk(starts.includes(password));
});

await t.test('a BMC that says yes while the node stays on is not believed', async (t) => {
  await bmc.set('stuck', 'on');
  const r = await fence.off(device, { deadlineMs: 24_000 });
  t.match(r, { kind: 'not-confirmed', error: { code: 'fence-failed' } });
  t.ok((await bmc.calls()).includes('set power 0'), 'it was asked to');
  t.match(r.kind === 'not-confirmed' && r.error.hint, /power the node off by hand/i);
});

for (const [what, wrong, hint] of [
  ['password', { password: 'Wr0ng!' }, /user and password/],
  ['user', { user: 'nobody' }, /user and password/],
  ['cipher', { cipher: 17 }, /cipher/],
] as const) {
  await t.test(`with a wrong ${what} nothing is confirmed, and the hint says where to look`, async (t) => {
    await bmc.set('works', 'off');
    const bad = { ...device, ...wrong } as FencingDevice;
    const off = await fence.off(bad, soon);
    t.match(off, { kind: 'not-confirmed', error: { code: 'fence-failed' } });
    const status = await fence.status(bad, soon);
    t.match(status, { kind: 'no-answer', error: { code: 'fence-failed', hint } });
    t.notOk(
      JSON.stringify([off, status].map((r) => ('error' in r ? errorRecord(r.error) : r))).includes(
        bad.password,
      ),
    );
    t.same(await bmc.calls(), [], 'the chassis heard nothing');
  });
}

await t.test('a BMC that falls silent is not taken for off, and a deadline is kept', async (t) => {
  await bmc.set('works', 'off');
  bmc.signal('SIGSTOP');
  try {
    for (const deadlineMs of [500, 1_500, 6_000]) {
      const startedMs = performance.now();
      const r = await fence.off(device, { deadlineMs });
      t.match(r, { kind: 'not-confirmed', error: { code: 'fence-timeout' } });
      t.ok(performance.now() - startedMs < deadlineMs + 2_000, `within ${deadlineMs} ms`);
    }
  } finally {
    bmc.signal('SIGCONT');
  }
});

await t.test('when a call is ended, all that ran for it is killed', async (t) => {
  bmc.signal('SIGSTOP');
  try {
    const stop = new AbortController();
    const before = new Set(descendants().map((p) => p.pid));
    const call = fence.off(device, { deadlineMs: 60_000, signal: stop.signal });
    const mine = () => descendants().filter((p) => !before.has(p.pid));
    await until('ipmitool to wait for the BMC', () => mine().some((p) => /ipmitool\.real/.test(p.text)));
    const running = mine();
    t.ok(running.some((p) => /fence_ipmilan/.test(p.text)));
    for (const p of running) t.notOk(p.text.includes(password), `no password to be seen: ${p.pid}`);
    stop.abort();
    t.match(await call, { kind: 'not-confirmed', error: { code: 'cancelled' } });
    await until('all to be killed', () => !running.some((p) => isAlive(p.pid)), 5_000);
    const again = await fence.status(device, { ...soon, signal: stop.signal });
    t.match(again, { kind: 'no-answer', error: { code: 'cancelled' } }, 'nothing is begun after that');
  } finally {
    bmc.signal('SIGCONT');
  }
});

await t.test('where no BMC is, none answers', async (t) => {
  const r = await fence.status({ ...device, port: closedPort }, { deadlineMs: 3_000 });
  t.match(r, { kind: 'no-answer', error: { code: 'fence-timeout' } });
});

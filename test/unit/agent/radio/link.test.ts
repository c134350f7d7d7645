import { randomUUID } from 'node:crypto';
import { connect, createServer } from 'node:net';
import { once } from 'node:events';
import t from 'tap';
import { Link } from '../../../../agent/radio/link.js';
import { Slots } from '../../../../agent/radio/slots.js';
import { Broker, freePort, until } from './broker.js';
import { TestCa } from './test-pki.js';

const dir = t.testdir({});
const ca = await new TestCa(dir, 'ca').make();
const broker = new Broker({ dir: `${dir}/n1`, port: await freePort(), tls: await ca.certificate('n1') });
await broker.start();
t.teardown(() => broker.stop('SIGKILL'));

/** A listener of the broker whose first limit is far shorter than a handshake takes. */
function listener(
  port: number,
  slots: Slots,
  o: { timeoutMs: number; keepaliveS?: number } = { timeoutMs: 100 },
): { isUp: () => boolean; upSince: () => number | null } {
  let up: number | null = null;
  const link = new Link({
    host: '127.0.0.1',
    port,
    expect: 'n1',
    clientId: randomUUID(),
    tls: () => broker.tls,
    will: null,
    subscribe: ['v1/#'],
    slots,
    random: { uuid: () => randomUUID(), below: () => 0 },
    ...o,
    onUp: () => (up = performance.now()),
    onDown: () => (up = null),
    onMessage: () => undefined,
    onRefused: () => undefined,
  });
  link.start();
  t.teardown(() => link.stop());
  return { isUp: () => up !== null, upSince: () => up };
}

await t.test('a node that answers late is given more time, until it is through', async (t) => {
  let dials = 0;
  // As a node that has just booted: its kernel answers at once, its broker after a while.
  const slow = createServer((inward) => {
    dials += 1;
    inward.on('error', () => undefined);
    inward.pause();
    setTimeout(() => {
      const onward = connect(broker.port, '127.0.0.1');
      onward.on('error', () => inward.destroy());
      inward.pipe(onward).pipe(inward);
    }, 1_000).unref();
  }).listen(0, '127.0.0.1');
  await once(slow, 'listening');
  t.teardown(() => slow.close());
  const { port } = slow.address() as { port: number };
  const { isUp } = listener(port, new Slots(1));
  await until('it is let in', isUp, 120_000);
  t.ok(dials > 1, `after ${dials} attempts`);
});

await t.test('one that answers nothing at all keeps others waiting only for a moment', async (t) => {
  const mute = createServer((inward) => inward.on('error', () => undefined)).listen(0, '127.0.0.1');
  await once(mute, 'listening');
  t.teardown(() => mute.close());
  const slots = new Slots(1);
  listener((mute.address() as { port: number }).port, slots);
  const { isUp } = listener(broker.port, slots);
  await until('the other is let in', isUp, 120_000);
  t.ok(isUp());
});

await t.test(
  'a link that is lost again and again as its answers come late is asked less often',
  async (t) => {
    let dials = 0;
    const far = createServer((inward) => {
      dials += 1;
      const onward = connect(broker.port, '127.0.0.1');
      inward.on('error', () => onward.destroy()).on('close', () => onward.destroy());
      onward.on('error', () => inward.destroy()).on('close', () => inward.destroy());
      inward.pipe(onward);
      // Each answer takes longer than half of the second after which it is asked for.
      onward.on('data', (bytes) => setTimeout(() => inward.write(bytes), 800));
    }).listen(0, '127.0.0.1');
    await once(far, 'listening');
    t.teardown(() => far.close());
    const { port } = far.address() as { port: number };
    const { upSince } = listener(port, new Slots(1), { timeoutMs: 60_000, keepaliveS: 1 });
    // Three answers missed would have ended it.
    await until('it stays', () => performance.now() - (upSince() ?? performance.now()) > 6_000, 120_000);
    t.ok(dials > 1, `after ${dials} attempts`);
  },
);

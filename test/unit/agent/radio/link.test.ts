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
function listener(port: number, slots: Slots): { link: Link; isUp: () => boolean } {
  let up = false;
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
    timeoutMs: 100,
    onUp: () => (up = true),
    onDown: () => (up = false),
    onMessage: () => undefined,
    onRefused: () => undefined,
  });
  link.start();
  t.teardown(() => link.stop());
  return { link, isUp: () => up };
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

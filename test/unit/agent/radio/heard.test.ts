import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import t from 'tap';
import { readMessage } from '../../../../agent/radio/door.js';
import { eventsPerNodeMax, Heard, opsPerNodeMax, vmsPerNodeMax } from '../../../../agent/radio/heard.js';
import { presence } from '../../../../core/domain/node.js';
import { radioPayloadBytesMax, topic, type RadioKind } from '../../../../core/wire/radio.js';
import { sampleState, sampleVm } from './samples.js';

const cluster = '4f0b6f4e-3f0e-4f41-9d0d-6a1c5f0a9b11';
const vm = '0b8e1c9e-7a43-4a8e-9a64-0d1b6d4a1f55';
const bytes = (v: unknown): Uint8Array => Buffer.from(typeof v === 'string' ? v : JSON.stringify(v));

function rig(nodes = ['n1', 'n2']) {
  const time = { now: 1_000_000, wall: 5_000_000 };
  const heard = new Heard({
    cluster,
    tickMs: 250,
    clock: { nowMs: () => time.now, wallMs: () => time.wall },
  });
  heard.setNodes(nodes);
  const say = (node: string, kind: RadioKind, body: unknown, id?: string, retained = false) =>
    heard.receive(node, topic(cluster, node, kind, id), body === null ? bytes('') : bytes(body), retained);
  /** Time passes as on a healthy node, tick by tick. */
  const pass = (ms: number) => {
    for (let left = ms; left > 0; left -= 250) {
      const step = Math.min(left, 250);
      time.now += step;
      time.wall += step;
      heard.tick();
    }
  };
  const of = (node: string) => heard.view().find((h) => h.node === node)!;
  return { time, heard, say, pass, of };
}
const beat = (seq: number, boot = 'boot-1') => ({ boot, seq, atMs: 0 });

await t.test('a beat is a sign of life, but not an old, repeated or kept one', async (t) => {
  const { say, pass, of } = rig();
  t.equal(of('n1').beatAgeMs, null);
  say('n1', 'beat', beat(5), undefined, true);
  t.equal(of('n1').beatAgeMs, null, 'a kept beat proves nothing');
  t.equal(say('n1', 'beat', beat(5)), true);
  pass(2_000);
  t.equal(of('n1').beatAgeMs, 2_000);
  t.equal(say('n1', 'beat', beat(5)), false);
  t.equal(say('n1', 'beat', beat(4)), false);
  t.equal(of('n1').beatAgeMs, 2_000);
  t.equal(say('n1', 'beat', beat(6)), false, 'the next one in time is no news');
  t.equal(of('n1').beatAgeMs, 0);
  pass(4_000);
  t.equal(presence(of('n1').beatAgeMs), 'suspect');
  t.equal(say('n1', 'beat', beat(7)), true, 'one after silence is');
  say('n1', 'beat', beat(1, 'boot-2'));
  pass(1_000);
  t.equal(say('n1', 'beat', beat(100, 'boot-1')), false);
  t.equal(of('n1').beatAgeMs, 1_000, 'a former incarnation is not alive');
});

await t.test('our own stall suspects nobody, and revives nobody', async (t) => {
  const { say, pass, of, time } = rig();
  say('n2', 'beat', beat(1));
  pass(10_000);
  say('n1', 'beat', beat(1));
  pass(1_000);
  time.now += 8_000;
  t.equal(presence(of('n1').beatAgeMs), 'here', 'asked before the late tick has run');
  t.equal(of('n1').beatAgeMs, 0);
  t.equal(of('n2').beatAgeMs, 19_000, 'who was silent before stays silent');
  pass(4_000);
  t.equal(presence(of('n1').beatAgeMs), 'suspect', 'and real silence counts again');
});

await t.test('silence wakes once when it becomes suspicion', async (t) => {
  const { say, heard, time } = rig();
  say('n1', 'beat', beat(1));
  const changes: number[] = [];
  for (let i = 1; i <= 80; i += 1) {
    time.now += 250;
    if (heard.tick()) changes.push(i * 250);
  }
  t.same(changes, [3_500, 15_000]);
});

await t.test('a will of this incarnation means gone; the next beat means back', async (t) => {
  const { say, of, heard } = rig();
  say('n2', 'beat', beat(1));
  const will = (boot: string, from: string) =>
    heard.receive(from, topic(cluster, 'n2', 'gone'), bytes({ boot }), false);
  t.equal(will('boot-0', 'n2'), false, 'of another start');
  t.equal(of('n2').agentGone, false);
  t.equal(will('boot-1', 'n1'), true, "left on a peer's broker");
  t.equal(of('n2').agentGone, true);
  say('n2', 'beat', beat(2));
  t.equal(of('n2').agentGone, false);
});

await t.test('age of a kept line is told by its writer, of a live one by us', async (t) => {
  const { say, of, time } = rig();
  say('n1', 'state', sampleState('n1', { atMs: time.wall - 60_000 }), undefined, true);
  t.equal(of('n1').stateAgeMs, 60_000);
  say('n1', 'state', sampleState('n1', { atMs: time.wall + 90_000, seq: 2 }), undefined, true);
  t.equal(of('n1').stateAgeMs, 0, 'a clock that is ahead does not make a negative age');
  say('n1', 'state', sampleState('n1', { atMs: 0, seq: 3 }));
  t.equal(of('n1').stateAgeMs, 0);
});

await t.test('a kept state of an unknown start never follows a living one', async (t) => {
  const { say, of } = rig();
  say('n1', 'beat', beat(1, 'new'));
  say('n1', 'state', sampleState('n1', { boot: 'older', cpus: 1 }), undefined, true);
  t.equal(of('n1').state, null);
  say('n1', 'state', sampleState('n1', { boot: 'new', cpus: 2 }));
  t.equal(of('n1').state?.cpus, 2);
});

await t.test(
  'lines not said again after a new connection are dropped, but only of a living node',
  async (t) => {
    const { say, of, heard, time } = rig();
    const other = randomUUID();
    heard.setConnected('n1', true);
    say('n1', 'beat', beat(1));
    say('n1', 'vm', sampleVm('n1', vm), vm);
    say('n1', 'vm', sampleVm('n1', other), other);
    heard.setConnected('n1', false);
    heard.setConnected('n1', true);
    say('n1', 'vm', sampleVm('n1', vm), vm);
    for (let s = 2; s < 60; s += 1) {
      time.now += 250;
      heard.tick();
    }
    for (let s = 60; s < 400; s += 1) {
      time.now += 250;
      heard.tick();
    }
    t.same([...of('n1').vms.keys()], [vm, other], 'its agent is dead: what it last said is all there is');
    say('n1', 'beat', beat(2));
    heard.tick();
    t.same([...of('n1').vms.keys()], [vm]);
  },
);

await t.test('nothing about nodes we do not listen to, and nothing without limit', async (t) => {
  const { say, of, heard } = rig();
  say('n9', 'state', sampleState('n9'));
  t.same(
    heard.view().map((h) => h.node),
    ['n1', 'n2'],
  );
  for (let i = 0; i < vmsPerNodeMax + 10; i += 1) {
    const id = randomUUID();
    say('n1', 'vm', sampleVm('n1', id), id);
  }
  t.equal(of('n1').vms.size, vmsPerNodeMax);
  t.equal(heard.refused()['too-many-lines'], 10);
  for (let i = 0; i < eventsPerNodeMax + 10; i += 1)
    say('n1', 'event', { atMs: i, level: 'info', subject: 's', text: `${i}` });
  t.equal(of('n1').events.length, eventsPerNodeMax);
  t.equal(of('n1').events[0]?.text, `${eventsPerNodeMax + 9}`, 'newest first');
  heard.setNodes(['n2']);
  t.same(
    heard.view().map((h) => h.node),
    ['n2'],
  );
  t.ok(opsPerNodeMax > 0);
});

await t.test('the door: each refusal has its kind', async (t) => {
  const state = bytes(sampleState('n1'));
  const read = (from: string, top: string, p: Uint8Array) => {
    const m = readMessage(cluster, from, top, p);
    return typeof m === 'string' ? m : 'read';
  };
  t.equal(read('n1', topic(cluster, 'n1', 'state'), state), 'read');
  t.equal(read('n2', topic(cluster, 'n1', 'state'), state), 'forged-topic');
  t.equal(read('n1', topic(randomUUID(), 'n1', 'state'), state), 'forged-topic');
  t.equal(read('n2', topic(cluster, 'n2', 'state'), state), 'forged-topic', 'names another node inside');
  t.equal(read('n1', topic(cluster, 'n1', 'vm', vm), bytes(sampleVm('n2', vm))), 'forged-topic');
  t.equal(read('n1', topic(cluster, 'n1', 'vm', vm), bytes(sampleVm('n1', randomUUID()))), 'forged-topic');
  t.equal(read('n1', `v1/${cluster}/n/n1/state/x`, state), 'forged-topic');
  t.equal(read('n1', `v1/${cluster}/n/n1/vm/../../x`, state), 'forged-topic');
  t.equal(read('n1', topic(cluster, 'n1', 'state'), new Uint8Array(radioPayloadBytesMax + 1)), 'oversized');
  t.equal(read('n1', topic(cluster, 'n1', 'state'), bytes('{"a":')), 'unreadable');
  t.equal(read('n1', topic(cluster, 'n1', 'state'), Uint8Array.of(0xff, 0xfe)), 'unreadable');
  t.equal(read('n1', topic(cluster, 'n1', 'state'), bytes('['.repeat(60_000))), 'unreadable');
  t.equal(read('n1', topic(cluster, 'n1', 'beat'), bytes({ boot: 'b', seq: -1, atMs: 0 })), 'unreadable');
});

await t.test(
  'in whatever order and however often the lines of one start come, the newest stands',
  async (t) => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ vm: fc.boolean(), seq: fc.nat(30) }), { minLength: 1, maxLength: 60 }),
        (messages) => {
          const { say, of } = rig();
          for (const m of messages) {
            if (m.vm) say('n1', 'vm', sampleVm('n1', vm, { seq: m.seq }), vm);
            else say('n1', 'state', sampleState('n1', { seq: m.seq }));
          }
          const newest = (isVm: boolean) =>
            messages
              .filter((m) => m.vm === isVm)
              .reduce<number | null>((max, m) => Math.max(max ?? 0, m.seq), null);
          const h = of('n1');
          return (
            (h.state?.seq ?? null) === newest(false) && (h.vms.get(vm)?.state.seq ?? null) === newest(true)
          );
        },
      ),
    );
    t.pass();
  },
);

await t.test('hostile bytes and topics never throw, never make a node, and are counted', async (t) => {
  const topics = fc.oneof(
    fc.string(),
    fc.constantFrom(
      topic(cluster, 'n1', 'state'),
      topic(cluster, 'n1', 'beat'),
      topic(cluster, 'n2', 'gone'),
      topic(cluster, 'n1', 'vm', vm),
      topic(cluster, 'n1', 'op', vm),
      `v1/${cluster}/n/__proto__/state`,
      `v1/${cluster}/n/n1/constructor`,
    ),
  );
  const payload = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.json().map((j) => bytes(j)),
    fc.jsonValue().map((j) => bytes({ ...sampleState('n1'), hears: j })),
    fc.constant(bytes('{"__proto__":{"node":"n1"},"boot":"x","seq":1,"atMs":1}')),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(topics, payload, fc.boolean()), { maxLength: 40 }), (messages) => {
      const { heard } = rig();
      let refused = 0;
      for (const [top, p, kept] of messages) {
        if (typeof readMessage(cluster, 'n1', top, p) === 'string') refused += 1;
        heard.receive('n1', top, p, kept);
      }
      const counted = Object.values(heard.refused()).reduce((a, b) => a + b, 0);
      return heard.view().length === 2 && counted === refused;
    }),
    { numRuns: 300 },
  );
  t.pass();
});

import t from 'tap';
import { presence } from '../../../../core/domain/node.js';
import { RadioHub, type MemoryRadio } from '../../../sim/memory-radio.js';
import { sampleState, sampleVm } from './samples.js';

const cluster = '4f0b6f4e-3f0e-4f41-9d0d-6a1c5f0a9b11';
const vm = '0b8e1c9e-7a43-4a8e-9a64-0d1b6d4a1f55';

function air() {
  const time = { now: 0 };
  const hub = new RadioHub({ cluster, clock: { nowMs: () => time.now, wallMs: () => time.now } });
  const peers = ['n1', 'n2', 'n3'].map((node) => ({ node, address: '10.0.0.1' }));
  const join = (node: string, boot = `${node}-boot`): MemoryRadio => {
    const r = hub.join(node, boot);
    r.setPeers(peers);
    return r;
  };
  const pass = (ms: number) => {
    for (let i = 0; i < ms; i += 250) {
      time.now += 250;
      hub.tick();
    }
  };
  return { hub, join, pass };
}
const of = (r: MemoryRadio, node: string) => r.heard().find((h) => h.node === node)!;

await t.test('a one-way cut silences one for the other, and healing brings what is kept', async (t) => {
  const { hub, join, pass } = air();
  const [a, b] = [join('n1'), join('n2')];
  a.say('state', sampleState('n1', { cpus: 3 }));
  pass(2_000);
  t.equal(of(b, 'n1').state?.cpus, 3);
  hub.cut('n2', 'n1');
  a.say('state', sampleState('n1', { cpus: 5 }));
  pass(5_000);
  t.equal(of(b, 'n1').state?.cpus, 3);
  t.equal(presence(of(b, 'n1').beatAgeMs), 'suspect');
  t.equal(presence(of(a, 'n2').beatAgeMs), 'here');
  hub.heal();
  pass(1_000);
  t.equal(of(b, 'n1').state?.cpus, 5);
  t.equal(presence(of(b, 'n1').beatAgeMs), 'here');
});

await t.test('death is known by the will, a partition only by silence', async (t) => {
  const { hub, join, pass } = air();
  const [a, b, c] = [join('n1'), join('n2'), join('n3')];
  pass(1_000);
  hub.partition(['n1'], ['n2']);
  a.die();
  t.equal(of(b, 'n1').agentGone, false);
  t.equal(of(c, 'n1').agentGone, true);
  const again = join('n1', 'second');
  hub.heal();
  pass(1_000);
  t.equal(of(c, 'n1').agentGone, false);
  again.stop();
  t.equal(of(c, 'n1').agentGone, false, 'a goodbye is no death');
});

await t.test('a late listener, and a broker that lost all, get the kept lines', async (t) => {
  const { hub, join, pass } = air();
  const a = join('n1');
  a.say('vm', sampleVm('n1', vm), vm);
  const b = join('n2');
  t.ok(of(b, 'n1').vms.has(vm));
  hub.stopBroker('n1');
  t.equal(of(b, 'n1').connected, false);
  hub.startBroker('n1');
  const c = join('n3');
  t.ok(of(c, 'n1').vms.has(vm));
  let woken = 0;
  b.onChange(() => (woken += 1));
  a.unsay('vm', vm);
  t.equal(woken, 1);
  t.notOk(of(b, 'n1').vms.has(vm));
  pass(1_000);
  t.same(b.refused(), {});
});

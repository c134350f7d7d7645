import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { connect as tlsConnect } from 'node:tls';
import { MqttClient } from 'mqtt';
import t from 'tap';
import type { HeardNode, Log } from '../../../../agent/env.js';
import type { TlsFiles } from '../../../../agent/radio/link.js';
import { MqttRadio } from '../../../../agent/radio/mqtt-radio.js';
import { Broker, freePort, until } from './broker.js';
import { sampleState, sampleVm } from './samples.js';
import { TestCa } from './test-pki.js';

const cluster = randomUUID();
const log: Log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  sleep: async (): Promise<void> => undefined,
};
const random = { uuid: () => randomUUID(), below: (n: number) => Math.floor(Math.random() * n) };

const dir = t.testdir({});
const ca = await new TestCa(dir, 'ca').make();
const otherCa = await new TestCa(dir, 'other-ca').make();
const nodes = ['n1', 'n2', 'n3'] as const;
const brokers: Record<string, Broker> = {};
for (const node of nodes) {
  brokers[node] = new Broker({
    dir: `${dir}/${node}`,
    port: await freePort(),
    tls: await ca.certificate(node),
  });
  await brokers[node].start();
}
const broker = (node: string): Broker => brokers[node] as Broker;
t.teardown(async () => Promise.all(Object.values(brokers).map((b) => b.stop('SIGKILL'))));

const peers = () => nodes.map((node) => ({ node, address: '127.0.0.1', port: broker(node).port }));

function radio(
  node: string,
  o: { mode?: 'agent' | 'listen'; tls?: TlsFiles; oldLinesMs?: number } = {},
): MqttRadio {
  const r = new MqttRadio({
    cluster,
    node,
    boot: randomUUID(),
    ...(o.oldLinesMs === undefined ? {} : { oldLinesMs: o.oldLinesMs }),
    mode: o.mode ?? 'agent',
    port: broker(node).port,
    ...(o.mode === 'listen' ? {} : { brokerLog: broker(node).logFile }),
    tls: () => o.tls ?? broker(node).tls,
    clock,
    random,
    log,
  });
  r.setPeers(peers());
  r.start();
  return r;
}

const heardOf = (r: MqttRadio, node: string): HeardNode | undefined => r.heard().find((h) => h.node === node);

/** A client that speaks MQTT by hand, as an attacker or a broken agent would. */
async function client(to: string, tls: TlsFiles, clientId: string): Promise<MqttClient> {
  const c = new MqttClient(() => tlsConnect({ host: '127.0.0.1', port: broker(to).port, ...tls }), {
    protocolVersion: 5,
    clean: true,
    clientId,
    reconnectPeriod: 0,
  });
  c.on('error', () => undefined);
  await new Promise<void>((up) => c.on('connect', () => up()));
  return c;
}

await t.test('three nodes hear each other, a listener hears all, late ones get what is kept', async (t) => {
  const [r1, r2, r3] = nodes.map((n) => radio(n)) as [MqttRadio, MqttRadio, MqttRadio];
  const ear = radio('n1', { mode: 'listen' });
  t.teardown(() => Promise.all([r1, r2, r3, ear].map((r) => r.stop())));
  const vm = randomUUID();
  let woken = 0;
  const end = r2.onChange(() => (woken += 1));
  r1.say('state', sampleState('n1', { cpus: 7 }));
  r1.say('vm', sampleVm('n1', vm, { phase: 'starting' }), vm);
  for (const r of [r2, r3, ear]) {
    await until('n1 is heard with its VM', () => {
      const h = heardOf(r, 'n1');
      return (
        h?.state?.cpus === 7 && h.vms.get(vm)?.state.phase === 'starting' && (h.beatAgeMs ?? 1e9) < 2_000
      );
    });
  }
  t.ok(woken > 0, 'whoever waits is woken');
  end();
  let echoes = 0;
  const endEchoes = r1.onChange(() => (echoes += 1));
  r1.say('state', sampleState('n1', { cpus: 7, version: 'again' }));
  t.equal(echoes, 0, 'what one says oneself wakes nobody');
  endEchoes();
  await until('all hear all', () =>
    [r1, r2, r3, ear].every((r) =>
      nodes.every((n) => heardOf(r, n)?.connected && heardOf(r, n)?.beatAgeMs !== null),
    ),
  );
  t.throws(() => ear.say('state', sampleState('n1')), 'a listener does not speak');

  r1.say('vm', sampleVm('n1', vm, { phase: 'running', name: 'last' }), vm);
  await until('the change arrives', () => heardOf(r3, 'n1')?.vms.get(vm)?.state.name === 'last');
  r1.say('event', { atMs: Date.now(), level: 'info', subject: 'VM last', text: 'runs' });
  await until('the event arrives', () => heardOf(ear, 'n1')?.events[0]?.text === 'runs');

  const late = radio('n2', { mode: 'listen' });
  t.teardown(() => late.stop());
  await until('a late listener has the kept lines', () => heardOf(late, 'n1')?.vms.get(vm) !== undefined);

  r1.unsay('vm', vm);
  await until('a deleted VM is taken back', () =>
    [r2, r3, ear, late].every((r) => heardOf(r, 'n1')?.vms.size === 0),
  );
  t.same(r2.refused(), {}, 'nothing was refused');
});

await t.test('a broker restarts and has everything again', async (t) => {
  const r1 = radio('n1');
  const r2 = radio('n2');
  t.teardown(() => Promise.all([r1.stop(), r2.stop()]));
  const vm = randomUUID();
  r1.say('state', sampleState('n1', { cpus: 9 }));
  r1.say('vm', sampleVm('n1', vm), vm);
  await until('heard before', () => heardOf(r2, 'n1')?.vms.has(vm) === true);
  await broker('n1').stop('SIGKILL');
  await until('the loss is noticed', () => heardOf(r2, 'n1')?.connected === false);
  await broker('n1').start();
  const ear = radio('n3', { mode: 'listen' });
  t.teardown(() => ear.stop());
  await until('one that never heard it before hears it', () => {
    const h = heardOf(ear, 'n1');
    return h?.state?.cpus === 9 && h.vms.has(vm);
  });
  await until('the old listener hears again', () => (heardOf(r2, 'n1')?.beatAgeMs ?? 1e9) < 1_500);
});

await t.test('an agent that dies is known to be gone at once, and back when it is back', async (t) => {
  const r1 = radio('n1');
  const ear = radio('n3', { mode: 'listen' });
  t.teardown(() => Promise.all([r1.stop(), ear.stop()]));
  const boot = randomUUID();
  const child = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { MqttRadio } from ${JSON.stringify(new URL('../../../../agent/radio/mqtt-radio.js', import.meta.url).href)};
     const o = JSON.parse(process.env.RADIO);
     const r = new MqttRadio({ ...o, mode: 'agent', tls: () => o.files, clock: { nowMs: () => performance.now(),
       wallMs: () => Date.now(), sleep: async () => {} }, random: { uuid: () => '', below: () => 0 },
       log: { info() {}, warn() {}, error() {} } });
     r.setPeers(o.peers); r.start();`,
    ],
    {
      env: {
        RADIO: JSON.stringify({
          cluster,
          node: 'n2',
          boot,
          port: broker('n2').port,
          files: broker('n2').tls,
          peers: peers(),
        }),
      },
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  );
  t.teardown(() => child.kill('SIGKILL'));
  const both = (check: (h: HeardNode) => boolean) =>
    [r1, ear].every((r) => check(heardOf(r, 'n2') as HeardNode));
  await until('n2 speaks', () => both((h) => h.connected && h.beatAgeMs !== null && !h.agentGone));
  child.kill('SIGKILL');
  await until('n2 is gone', () => both((h) => h.agentGone));
  t.ok(
    both((h) => h.connected),
    'its broker still answers',
  );
  const again = radio('n2');
  t.teardown(() => again.stop());
  await until('n2 is back', () => both((h) => !h.agentGone && (h.beatAgeMs ?? 1e9) < 1_500));
  await again.stop();
  t.ok(
    both((h) => !h.agentGone),
    'a goodbye is no death',
  );
});

await t.test(
  'a forged topic is refused by the broker, and counted where it arrives all the same',
  async (t) => {
    const n2 = await client('n1', broker('n2').tls, 'forger');
    t.teardown(() => n2.endAsync(true));
    const state = JSON.stringify(sampleState('n1', { cpus: 666 }));
    await t.rejects(n2.publishAsync(`v1/${cluster}/n/n1/state`, state, { qos: 1, retain: true }), {
      code: 135,
    });
    await n2.publishAsync(`v1/${cluster}/n/n2/event`, '{}', { qos: 1 });

    // A broker without our ACL, or one that was taken over, may deliver anything: its own node n3 speaks for n1.
    const ear = radio('n1', { mode: 'listen' });
    t.teardown(() => ear.stop());
    await until('n3 connected', () => heardOf(ear, 'n3')?.connected === true);
    const n3 = await client('n3', broker('n3').tls, 'own');
    t.teardown(() => n3.endAsync(true));
    const say = (kind: string, text: string) =>
      n3.publishAsync(`v1/${cluster}/n/n3/${kind}`, text, { qos: 1, retain: false });
    await say('nonsense', '{}');
    await until('counted', () => ear.refused()['forged-topic'] === 1);
    await say('state', JSON.stringify(sampleState('n1', { cpus: 666 })));
    await until('a line that names another node counted', () => ear.refused()['forged-topic'] === 2);
    await say('state', '{"node":');
    await say('state', '{"node": "n3", "cpus": -1}');
    await until('unreadable ones counted', () => ear.refused()['unreadable'] === 2);
    t.equal(heardOf(ear, 'n1')?.state?.cpus === 666, false, 'none of it is believed');
    t.equal(heardOf(ear, 'n3')?.state, null);
  },
);

await t.test(
  'certificates: foreign, expired and mistaken ones are refused on both sides and counted',
  async (t) => {
    const host = radio('n1');
    t.teardown(() => host.stop());
    await until('n1 is up', () => heardOf(host, 'n1')?.connected === true);

    const foreign = await otherCa.certificate('n2');
    const stranger = radio('n2', { mode: 'listen', tls: foreign });
    t.teardown(() => stranger.stop());
    await until('the stranger refuses our broker', () => (stranger.refused()['certificate'] ?? 0) > 0);

    // It trusts our CA, but its own certificate is of another: the brokers refuse it.
    const before = host.refused()['certificate'] ?? 0;
    const mixed = radio('n2', { mode: 'listen', tls: { ...foreign, ca: broker('n1').tls.ca } });
    t.teardown(() => mixed.stop());
    await until('it learns that it was refused', () => (mixed.refused()['certificate'] ?? 0) > 0);
    await until('n1 counts it too', () => (host.refused()['certificate'] ?? 0) > before);
    t.notOk(
      mixed.heard().some((h) => h.connected),
      'it hears nobody',
    );

    const expired = radio('n2', { mode: 'listen', tls: await ca.certificate('n2', { expired: true }) });
    t.teardown(() => expired.stop());
    await until('an expired one is refused', () => (expired.refused()['certificate'] ?? 0) > 0);
    t.notOk(expired.heard().some((h) => h.connected));

    // n3's address now leads to n2's broker: a certificate of the same CA, but of another node.
    const misled = new MqttRadio({
      cluster,
      node: 'n1',
      boot: randomUUID(),
      mode: 'listen',
      port: 1,
      tls: () => broker('n1').tls,
      clock,
      random,
      log,
    });
    misled.setPeers([{ node: 'n3', address: '127.0.0.1', port: broker('n2').port }]);
    misled.start();
    t.teardown(() => misled.stop());
    await until('the wrong node is refused', () => (misled.refused()['certificate'] ?? 0) > 0);
    t.equal(heardOf(misled, 'n3')?.connected, false);
  },
);

await t.test('VM lines of an earlier start that are not said again are taken back', async (t) => {
  const old = randomUUID();
  const c = await client('n3', broker('n3').tls, 'old');
  await c.publishAsync(`v1/${cluster}/n/n3/vm/${old}`, JSON.stringify(sampleVm('n3', old)), {
    qos: 1,
    retain: true,
  });
  await c.endAsync();
  const ear = radio('n1', { mode: 'listen' });
  t.teardown(() => ear.stop());
  await until('the old line is there', () => heardOf(ear, 'n3')?.vms.has(old) === true);
  const r3 = radio('n3', { oldLinesMs: 1_000 });
  t.teardown(() => r3.stop());
  const kept = randomUUID();
  r3.say('vm', sampleVm('n3', kept), kept);
  await until('only what runs is left', () => {
    const vms = heardOf(ear, 'n3')?.vms;
    return vms?.has(kept) === true && !vms.has(old);
  });
});

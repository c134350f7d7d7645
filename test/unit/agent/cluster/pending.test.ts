import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import t from 'tap';
import { readClusterCache } from '../../../../agent/cluster/cache.js';
import { joinTokenFile, pending } from '../../../../agent/cluster/pending.js';
import { readIfThere } from '../../../../agent/pki/store.js';
import { Screen, screenText, type ScreenState } from '../../../../agent/screen.js';
import { NetworkPendingNodes } from '../../../../controller/pending-nodes.js';
import { ledger as kinds } from '../../../../core/wire/ledger-keys.js';
import { sampleView } from '../status/samples.js';
import { FakeServices, KeptLog, Rig } from './rig.js';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A node that waits, and a cluster that looks at it. */
async function waiting(t: { testdir(): string; teardown(f: () => void): void }, name: string) {
  const r = new Rig(t.testdir());
  await r.start();
  t.teardown(() => r.stop());
  const config = r.nodeConfig(name, '127.0.0.1', await freePort());
  const shown: ScreenState[] = [];
  const log = new KeptLog();
  const foundGood: string[] = [];
  const begin = (): Promise<void> =>
    pending({
      config,
      services: new FakeServices(),
      clock: r.clock,
      log,
      screen: { show: (s: ScreenState) => void shown.push(s) },
      slots: {
        state: () => Promise.resolve({ booted: 'b', good: 'a', onTrial: 'b', boot: 'x' } as const),
        good: () => Promise.resolve(void foundGood.push('b')),
      },
      facts: () =>
        Promise.resolve(
          (() => {
            const { facts } = sampleView();
            if (facts === null) throw new Error('no facts');
            return facts;
          })(),
        ),
      version: '0.1.0',
    });
  const nodes = new NetworkPendingNodes({ clock: r.clock, log: r.log, port: config.ports.agent });
  const look = async () => {
    for (;;) {
      const seen = await nodes.look('127.0.0.1').catch(() => null);
      if (seen !== null) return seen;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  return { r, config, shown, log, foundGood, begin, nodes, look };
}

void t.test(
  'a node waits, shows its fingerprint, and is admitted with a token given to its key',
  async (t) => {
    const { r, config, shown, log, foundGood, begin, nodes, look } = await waiting(t, 'n7');
    const ended = begin();
    const seen = await look();
    t.match(seen, { name: 'n7', address: '127.0.0.1', version: '0.1.0' });
    const said = async (): Promise<unknown> => (await look()).machine ?? said();
    t.same(await said(), { cpu: 'AMD EPYC 7302P', cards: ['eno1'] }, 'what a cluster compares');
    t.equal(shown.at(-1)?.fingerprint, seen.fingerprint);
    const token = await r.token();
    await t.rejects(nodes.adopt('127.0.0.1', '0'.repeat(64), token), { code: 'wrong-certificate' });
    t.equal(await readClusterCache(config.stateDir), null, 'another key is sent nothing');
    await t.rejects(nodes.adopt('127.0.0.1', seen.fingerprint, 'no token'), { code: 'bad-input' });
    t.equal(await nodes.adopt('127.0.0.1', seen.fingerprint, token), 'n7');
    await ended;
    t.same(foundGood, ['b'], 'a version on trial that waits is a good one');
    t.match(await readClusterCache(config.stateDir), { name: 'test', node: 'n7' });
    t.equal((await r.store.read(kinds.node, 'n7'))?.value.fingerprint, seen.fingerprint);
    t.notMatch(log.lines.join('\n'), token.split('.').at(-2) ?? '', 'the secret is in no log');
    await t.rejects(nodes.look('127.0.0.1'), { code: 'node-unreachable' }, 'it waits no more');
  },
);

void t.test('a token that lies ready admits it; one the cluster refuses is thrown away', async (t) => {
  const { r, config, shown, begin, look } = await waiting(t, 'n8');
  const file = joinTokenFile(config.stateDir);
  const used = await r.token({ name: 'mine', ttlMs: 1 });
  await new Promise((resolve) => setTimeout(resolve, 20));
  const first = begin();
  await look();
  await writeFile(file, `${used}\n`);
  while ((await readIfThere(file)) !== null) await new Promise((resolve) => setTimeout(resolve, 20));
  while (!shown.some((s) => /could not join: .*expired/.test(s.sentence)))
    await new Promise((resolve) => setTimeout(resolve, 20));
  await writeFile(file, `${await r.token()}\n`);
  await first;
  t.match(await readClusterCache(config.stateDir), { node: 'n8' });
  t.equal(await readIfThere(file), null, 'nothing of it stays');
});

void t.test('what the console reads: lines, nothing that moves a cursor', async (t) => {
  const dir = t.testdir();
  const state: ScreenState = {
    state: 'member',
    config: { name: 'n1', address: '10.0.0.1', ports: { ledger: 1, ledgerPeer: 2, radio: 3, agent: 7443 } },
    fingerprint: '0123456789abcdef'.repeat(4),
    cluster: 'a\u001b[2Jb\nstate=pending',
    ok: false,
    sentence: 'x'.repeat(500),
  };
  new Screen(dir).show(state);
  const text = await readFile(`${dir}/screen`, 'utf8');
  t.equal(text, screenText(state));
  t.equal(text.split('\n').length, 9);
  t.match(text, /^cluster=a\?\[2Jb\?state=pending$/m);
  t.match(text, /^fingerprint=0123 4567 89ab cdef /m);
});

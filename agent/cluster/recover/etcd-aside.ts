import { spawn } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import { FlotillaError } from '../../../core/domain/error.js';
import { metaKey } from '../../../core/wire/ledger-keys.js';
import type { Clock } from '../../env.js';
import { EtcdLedger } from '../../ledger/etcd.js';
import { readTls } from '../../pki/store.js';
import type { AgentConfig } from '../config.js';
import { peerUrl, voterSettings } from '../etcd-settings.js';

/** How long it may take to answer, ms: a large database is read, and the disk may be slow. */
const answerMs = 60_000;
const askEveryMs = 200;
/** Time to end by itself after SIGTERM, ms. */
const endMs = 10_000;

export interface AsideOptions {
  readonly config: AgentConfig;
  readonly clusterId: string;
  readonly clock: Clock;
  readonly program: string;
  readonly dataDir: string;
  /** Makes it a cluster of this one member, whatever members it had. */
  readonly force: boolean;
}

/**
 * Runs etcd on some data where nobody else reaches it, at free ports of 127.0.0.1, while `work` uses it: what a
 * ledger of another time says must not be seen before it is marked as such.
 *
 * @throws FlotillaError `tool-failed`: it does not come up, with its last words; and what `work` throws
 */
export async function withEtcdAside<T>(
  o: AsideOptions,
  work: (ledger: EtcdLedger) => Promise<T>,
): Promise<T> {
  const { config } = o;
  const [client, peer] = await freePorts();
  const endpoint = `https://127.0.0.1:${client}`;
  const settings = voterSettings({
    node: config.name,
    address: config.address,
    stateDir: config.stateDir,
    ports: config.ports,
    clusterId: o.clusterId,
    state: 'existing',
    members: [{ name: config.name, peerUrl: peerUrl(config.address, config.ports) }],
    crl: false,
  });
  const child = spawn(o.program, [], {
    env: {
      ...settings,
      ETCD_DATA_DIR: o.dataDir,
      ETCD_LISTEN_CLIENT_URLS: endpoint,
      ETCD_LISTEN_PEER_URLS: `https://127.0.0.1:${peer}`,
      ...(o.force ? { ETCD_FORCE_NEW_CLUSTER: 'true' } : {}),
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let words = '';
  let ended = false;
  child.stderr.on('data', (d: Buffer) => (words = (words + d.toString()).slice(-4_000)));
  const gone = new Promise<void>((resolve) => {
    const end = (): void => {
      ended = true;
      resolve();
    };
    child.once('exit', end);
    child.once('error', (e) => {
      words += e.message;
      end();
    });
  });
  const ledger = new EtcdLedger({ endpoints: [endpoint], tls: await readTls(config.stateDir) });
  try {
    const limitMs = o.clock.nowMs() + answerMs;
    for (;;) {
      const cause = await ledger.get(metaKey).then(
        () => null,
        (e: unknown) => e,
      );
      if (cause === null) break;
      if (ended || o.clock.nowMs() > limitMs) {
        throw new FlotillaError('tool-failed', `etcd does not come up on ${o.dataDir}`, {
          hint: 'Is the data damaged, or does another etcd hold it? Another snapshot may do: recover status.',
          cause: new Error(words.trim().split('\n').at(-1) ?? '', { cause }),
        });
      }
      await o.clock.sleep(askEveryMs);
    }
    return await work(ledger);
  } finally {
    await ledger.close();
    child.kill('SIGTERM');
    const kill = setTimeout(() => child.kill('SIGKILL'), endMs);
    await gone;
    clearTimeout(kill);
  }
}

async function freePorts(): Promise<[number, number]> {
  const servers = [createServer(), createServer()];
  for (const s of servers) await new Promise<void>((resolve) => s.listen(0, '127.0.0.1', resolve));
  const ports = servers.map((s) => (s.address() as AddressInfo).port);
  await Promise.all(servers.map((s) => new Promise((resolve) => s.close(resolve))));
  return [ports[0] ?? 0, ports[1] ?? 0];
}

import { spawn, type ChildProcess } from 'node:child_process';
import { readdir, readFile, stat } from 'node:fs/promises';
import https from 'node:https';
import path from 'node:path';
import { createAdaptorServer } from '@hono/node-server';
import t from 'tap';
import { readClusterCache, refreshedCache, writeClusterCache } from '../../../../agent/cluster/cache.js';
import { agentConfigSchema, type AgentConfig } from '../../../../agent/cluster/config.js';
import { found } from '../../../../agent/cluster/found.js';
import { joinApp } from '../../../../agent/cluster/join-app.js';
import { fetchCaKeysFromAll, join, renewCertificate } from '../../../../agent/cluster/join.js';
import type { Services, Unit } from '../../../../agent/cluster/services.js';
import { createTokenOnNode } from '../../../../agent/cluster/token.js';
import { VoterLoop } from '../../../../agent/cluster/voters.js';
import { VoterSeat } from '../../../../agent/cluster/voter-seat.js';
import { KeeperEtcd } from '../../../../agent/keeper/etcd.js';
import { EtcdLedger } from '../../../../agent/ledger/etcd.js';
import { LedgerMembers } from '../../../../agent/ledger/members.js';
import { RecordStore } from '../../../../agent/ledger/records.js';
import { readTls } from '../../../../agent/pki/store.js';
import { httpsServerOptions } from '../../../../agent/pki/tls.js';
import { systemClock, systemRandom } from '../../../../agent/system.js';
import { timingProfiles } from '../../../../core/domain/timing.js';
import { ledger as kinds } from '../../../../core/wire/ledger-keys.js';
import { etcdProgram, freePorts, until } from '../ledger/real-etcd.js';
import { KeeperOnEtcd } from '../keeper/on-etcd.js';
import { KeptLog } from './rig.js';

/** Starts the etcd that etcd.env describes, as the unit does. */
class EtcdServices implements Services {
  readonly #stateDir: string;
  #child: ChildProcess | null = null;
  log = '';

  constructor(stateDir: string) {
    this.#stateDir = stateDir;
  }

  async enable(unit: Unit): Promise<void> {
    if (unit !== 'flotilla-etcd' || this.#child !== null) return;
    const text = await readFile(path.join(this.#stateDir, 'etcd.env'), 'utf8');
    const lines = text.split('\n').filter((l) => l.includes('=') && !l.startsWith('#'));
    const env = Object.fromEntries(
      lines.map((l) => [l.slice(0, l.indexOf('=')), l.slice(l.indexOf('=') + 1)]),
    );
    const child = spawn(etcdProgram(), [], { env, stdio: ['ignore', 'ignore', 'pipe'] });
    child.stderr.on('data', (d: Buffer) => (this.log = (this.log + d.toString()).slice(-10_000)));
    child.on('exit', () => {
      if (this.#child === child) this.#child = null;
    });
    this.#child = child;
  }

  async disable(unit: Unit): Promise<void> {
    const child = this.#child;
    if (unit !== 'flotilla-etcd' || child === null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }

  restart = async () => undefined;
  reload = async () => undefined;
  active = async (unit: Unit) => unit === 'flotilla-etcd' && this.#child !== null;
}

/** What main.ts wires of an agent for this part. */
class TestNode {
  readonly config: AgentConfig;
  readonly services: EtcdServices;
  readonly log = new KeptLog();
  ledger!: EtcdLedger;
  store!: RecordStore;
  members!: LedgerMembers;
  live!: KeeperOnEtcd;
  loop!: VoterLoop;
  pairs: { owner: string; twin: string }[] = [];
  #server: https.Server | null = null;

  constructor(dir: string, name: string, address: string, ports: object) {
    this.config = agentConfigSchema.parse({ name, address, stateDir: path.join(dir, name), ports });
    this.services = new EtcdServices(this.config.stateDir);
  }

  get deps() {
    return {
      config: this.config,
      services: this.services,
      clock: systemClock,
      random: systemRandom,
      log: this.log,
    };
  }

  async start(): Promise<void> {
    const { config, log } = this;
    const tls = await readTls(config.stateDir);
    const cache = await readClusterCache(config.stateDir);
    if (cache === null) throw new Error('not in a cluster');
    this.ledger = new EtcdLedger({ endpoints: cache.ledgerEndpoints, tls });
    const { store, meta } = await RecordStore.open(this.ledger);
    this.store = store;
    this.members = new LedgerMembers(this.ledger.gateway);
    const etcd = new KeeperEtcd({ timing: timingProfiles.lab });
    etcd.set(cache.ledgerEndpoints, tls);
    this.live = new KeeperOnEtcd({ node: config.name, ledger: etcd, log });
    const { app } = joinApp({
      config,
      cluster: () => ({ store, meta }),
      members: this.members,
      clock: systemClock,
      log,
    });
    this.#server = createAdaptorServer({
      fetch: app.fetch,
      createServer: https.createServer,
      serverOptions: httpsServerOptions(tls),
    }) as https.Server;
    await new Promise<void>((resolve) => this.#server?.listen(config.ports.agent, config.address, resolve));
    this.live.start();
    this.startLoop(meta.id);
  }

  startLoop(clusterId: string): void {
    const { config, log } = this;
    const seat = new VoterSeat({
      config,
      clusterId,
      services: this.services,
      log,
      fetchCaKeys: (addresses) => fetchCaKeysFromAll(config, addresses),
    });
    this.loop = new VoterLoop({
      config,
      store: this.store,
      members: this.members,
      live: this.live,
      seat,
      pairs: () => this.pairs,
      clock: systemClock,
      log,
    });
    this.loop.start();
  }

  /** As the agent's loop does after each reading of the nodes. */
  async refresh(): Promise<void> {
    const cache = await readClusterCache(this.config.stateDir);
    const nodes = (await this.store.list(kinds.node)).items.map((n) => n.value);
    if (cache === null) return;
    const next = refreshedCache(cache, { name: 'test' }, nodes, this.config.ports);
    if (next !== cache) await writeClusterCache(this.config.stateDir, next);
    this.ledger.setEndpoints(next.ledgerEndpoints);
  }

  async stop(): Promise<void> {
    await this.loop.stop();
    await this.live.stop();
    await this.ledger.close();
    this.#server?.closeAllConnections();
    this.#server?.close();
    await this.services.disable('flotilla-etcd');
  }
}

const dir = t.testdir();
const [ledger, ledgerPeer, radio, agent] = await freePorts(4);
const ports = { ledger, ledgerPeer, radio, agent };
const n1 = new TestNode(dir, 'n1', '127.0.0.31', ports);
const n2 = new TestNode(dir, 'n2', '127.0.0.32', ports);
const n3 = new TestNode(dir, 'n3', '127.0.0.33', ports);
const nodes = [n1, n2, n3];
const voters = async () =>
  (await n1.members.list())
    .filter((m) => !m.learner && m.name !== '')
    .map((m) => m.name)
    .sort();

await t.test(
  'found, join, join: three voters by themselves, across a crash of the one that leads',
  async (t) => {
    const { clusterId } = await found(n1.deps, 'test');
    await n1.start();
    const { token } = await createTokenOnNode(n1.deps, {
      kind: 'join',
      name: null,
      ttlMs: 600_000,
      uses: 2,
    });
    await join(n2.deps, token);
    await n2.start();
    t.same(await voters(), ['n1'], 'two nodes, one voter');
    await join(n3.deps, token);
    await n3.start();
    await until('the first learner', async () => (await n1.members.list()).length > 1, 60_000);
    // The leading loop dies in the middle. Its lease lives, so the same node goes on; others find the members as they are.
    const leader = nodes.find((n) => n.loop.state.leads);
    t.ok(leader);
    await leader?.loop.stop();
    leader?.startLoop(clusterId);
    await until('three voters', async () => (await voters()).length === 3, 90_000);
    await until(
      'the records to say so',
      async () => (await n1.store.list(kinds.node)).items.every((n) => n.value.voter),
      30_000,
    );
    for (const n of nodes) {
      t.equal(
        (await stat(path.join(n.config.stateDir, 'pki/ca.key'))).mode & 0o777,
        0o600,
        'voters can sign',
      );
      await n.refresh();
      t.equal(n.ledger.gateway.endpoints.length, 3);
      t.equal(n.ledger.gateway.endpoints[0], `https://${n.config.address}:${ledger}`, 'its own first');
    }
    t.equal(nodes.filter((n) => n.loop.state.leads).length, 1, 'one leads');
  },
);

await t.test('the ledger is led from where no machine in lockstep is', async (t) => {
  const leads = async (): Promise<string> => {
    const [any] = n1.ledger.gateway.endpoints;
    const { leader } = await n1.members.status(any ?? '');
    return (await n1.members.list()).find((m) => m.id === leader)?.name ?? '';
  };
  for (const other of ['n2', 'n3', 'n1']) {
    const [owner, twin] = ['n1', 'n2', 'n3'].filter((n) => n !== other);
    for (const n of nodes) n.pairs = [{ owner: owner ?? '', twin: twin ?? '' }];
    await until(`${other} to lead`, async () => (await leads()) === other, 60_000);
  }
  for (const n of nodes) n.pairs = [];
  const log = nodes.flatMap((n) => n.log.lines).filter((l) => l.includes('could not be tended'));
  t.same(log, []);
});

await t.test('a token made and used at another voter, with the founder dead', async (t) => {
  await n1.stop();
  const n4 = new TestNode(dir, 'n4', '127.0.0.34', ports);
  await until('the ledger without the founder', () =>
    n2.ledger.get('/flotilla/x').then(
      () => true,
      () => false,
    ),
  );
  const { token } = await createTokenOnNode(n2.deps, { kind: 'join', name: null, ttlMs: 600_000, uses: 1 });
  t.match(token, /^flt1\.127\.0\.0\.32:/);
  await join(n4.deps, token);
  t.same(
    (await n2.store.list(kinds.node)).items.map((n) => n.id),
    ['n1', 'n2', 'n3', 'n4'],
  );
  await n1.services.enable('flotilla-etcd');
  await n1.start();
  await until('the founder to be back', async () => (await voters()).length === 3);
});

await t.test('a certificate is renewed when it is due, by any voter', async (t) => {
  const before = await readTls(n3.config.stateDir);
  t.notOk(await renewCertificate(n3.config, ['127.0.0.32'], Date.now()), 'not due yet');
  const late = Date.now() + 800 * 86_400_000;
  t.ok(await renewCertificate(n3.config, ['127.0.0.99', '127.0.0.32'], late));
  const after = await readTls(n3.config.stateDir);
  t.not(after.cert, before.cert);
  t.equal(after.key, before.key);
  n3.ledger.setTls(after);
  await n3.ledger.get('/flotilla/x');
});

await t.test('a voter that was removed puts its seat away: etcd, its data, the key of the CA', async (t) => {
  const leader = nodes.find((n) => n.loop.state.leads) ?? n2;
  const gone = nodes.find((n) => n !== leader && n !== n1) ?? n3;
  for (const n of nodes) if (n !== gone) await n.loop.stop();
  const mine = (await n1.members.list()).find((m) => m.name === gone.config.name);
  await until('etcd to take the removal', async () => {
    // An answer may be lost with the removal done: the list tells.
    await n1.members.remove(mine?.id ?? '').catch(() => undefined);
    return n1.members.list().then(
      (list) => !list.some((m) => m.id === mine?.id),
      () => false,
    );
  });
  await until(
    'etcd to be put aside',
    async () => !(await readdir(gone.config.stateDir)).includes('etcd.env'),
  );
  t.notOk(await gone.services.active('flotilla-etcd'));
  await until(
    'the key to be gone',
    async () => !(await readdir(path.join(gone.config.stateDir, 'pki'))).includes('ca.key'),
  );
  // And with the leaders back it is chosen again (n4 does not run), with fresh data.
  for (const n of nodes)
    if (n !== gone) n.startLoop((await readClusterCache(n.config.stateDir))?.clusterId ?? '');
  await until('its seat again', async () => (await voters()).length === 3, 90_000);
});

await Promise.all(nodes.map((n) => n.stop()));

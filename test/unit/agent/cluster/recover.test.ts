import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import type { Server } from 'node:https';
import { createServer } from 'node:https';
import path from 'node:path';
import { createAdaptorServer } from '@hono/node-server';
import { Hono } from 'hono';
import t from 'tap';
import { readClusterCache, writeClusterCache } from '../../../../agent/cluster/cache.js';
import { agentConfigSchema, type AgentConfig } from '../../../../agent/cluster/config.js';
import { admitNode, confirmRecovery } from '../../../../agent/cluster/recover/confirm.js';
import { askJournal, collect } from '../../../../agent/cluster/recover/collect.js';
import { readProgress } from '../../../../agent/cluster/recover/progress.js';
import { rebuildLedger, type RebuildDeps, type Source } from '../../../../agent/cluster/recover/rebuild.js';
import { recoverStatus } from '../../../../agent/cluster/recover/status.js';
import type { Services, Unit } from '../../../../agent/cluster/services.js';
import { journalApp } from '../../../../agent/journal/http.js';
import { FileJournal } from '../../../../agent/journal/journal.js';
import { journalFile } from '../../../../agent/journal/read.js';
import type { EtcdLedger } from '../../../../agent/ledger/etcd.js';
import { LedgerMembers } from '../../../../agent/ledger/members.js';
import { readTls } from '../../../../agent/pki/store.js';
import { httpsServerOptions } from '../../../../agent/pki/tls.js';
import { takeSnapshot } from '../../../../agent/snapshots/keep.js';
import { systemClock } from '../../../../agent/system.js';
import { generationLeap, type RecoverAnswers } from '../../../../core/decide/recover.js';
import { firstOwn } from '../../../../core/decide/vm-make.js';
import type { VmOwn } from '../../../../core/domain/vm.js';
import {
  epochKey,
  ledger as kinds,
  metaKey,
  metaSchema,
  recoveryKey,
  writeRecord,
} from '../../../../core/wire/ledger-keys.js';
import { admittedKey } from '../../../../core/wire/key-names.js';
import { etcdProgram, freePorts, TestCluster, until, type TestMember } from '../ledger/real-etcd.js';

const clusterId = '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11';
const nobody: RecoverAnswers = { off: [], owner: new Map() };
const own = (owner: string, gen: number): VmOwn => ({
  ...firstOwn(owner, null),
  gen,
  state: 'running',
  fence: { armed: true, waitMs: 7_000 },
});

/** A node as far as a recovery goes: its state directory, and etcd as its unit would run it. */
class Voter implements Services {
  readonly member: TestMember;
  readonly config: AgentConfig;
  readonly calls: string[] = [];
  journal!: FileJournal;
  #child: ChildProcess | null = null;
  #server: Server | null = null;

  constructor(dir: string, member: TestMember, ports: object) {
    this.member = member;
    const { name, address } = member;
    this.config = agentConfigSchema.parse({ name, address, stateDir: path.join(dir, name), ports });
  }

  async enable(unit: Unit): Promise<void> {
    this.calls.push(`enable ${unit}`);
    if (this.#child !== null) return;
    const text = await readFile(path.join(this.config.stateDir, 'etcd.env'), 'utf8');
    const env = Object.fromEntries([...text.matchAll(/^(\w+)=(.*)$/gm)].map((m) => [m[1] ?? '', m[2] ?? '']));
    this.#child = spawn(etcdProgram(), [], { env, stdio: 'ignore' });
  }
  async disable(unit: Unit): Promise<void> {
    this.calls.push(`disable ${unit}`);
    await this.member.kill();
    const child = this.#child;
    this.#child = null;
    if (child === null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }
  restart = async () => undefined;
  reload = async () => undefined;
  active = async () => this.#child !== null;

  /** Its agent, as far as it tells its journal. */
  async answer(): Promise<void> {
    const app = new Hono().route('/v1/journal', journalApp(this.config.name, this.journal));
    const serverOptions = httpsServerOptions(await readTls(this.config.stateDir));
    const server = createAdaptorServer({ fetch: app.fetch, createServer, serverOptions }) as Server;
    await new Promise<void>((resolve) =>
      server.listen(this.config.ports.agent, this.config.address, resolve),
    );
    this.#server = server;
  }

  async end(): Promise<void> {
    await this.disable('flotilla-etcd');
    this.#server?.closeAllConnections();
    this.#server?.close();
  }
}

const [web, db, gone] = [randomUUID(), randomUUID(), randomUUID()] as const;

/** Three voters with a cluster in them: two VMs, three nodes. */
async function three(t: {
  testdir(): string;
  teardown(f: () => unknown): void;
}): Promise<{ voters: Voter[]; ledger: EtcdLedger; cluster: TestCluster; dir: string }> {
  const dir = t.testdir();
  const cluster = new TestCluster(path.join(dir, 'nodes'));
  await cluster.start(['n1', 'n2', 'n3']);
  const [agent = 0] = await freePorts(1);
  const voters = cluster.members.map(
    (m) => new Voter(path.join(dir, 'nodes'), m, { ...cluster.ports, agent }),
  );
  t.teardown(async () => {
    for (const v of voters) await v.end();
    await cluster.stop();
  });
  const ledger = await cluster.client();
  t.teardown(() => ledger.close());
  await cluster.ready(ledger);
  const meta = {
    schema: 1 as const,
    id: clusterId,
    name: 'test',
    epoch: 1,
    ca: cluster.ca.cert,
    foundedMs: 0,
    founder: 'n1',
  };
  const node = (v: Voter) => ({
    put: kinds.node.key(v.config.name),
    value: writeRecord(kinds.node, {
      id: v.config.name,
      addresses: [v.config.address],
      voter: true,
      desired: 'active',
      rack: null,
      witness: false,
      fingerprint: 'a'.repeat(64),
      joinedMs: 0,
    }),
  });
  await ledger.txn(
    [],
    [
      { put: metaKey, value: writeRecord({ schema: metaSchema }, meta) },
      { put: epochKey, value: '1' },
      ...voters.map(node),
      { put: kinds.vmOwn.key(web), value: writeRecord(kinds.vmOwn, own('n1', 9)) },
      { put: kinds.vmOwn.key(db), value: writeRecord(kinds.vmOwn, own('n3', 4)) },
      { put: kinds.live.key('n3'), value: '{}' },
      { put: admittedKey('n3'), value: '1' },
    ],
  );
  // Each has them as committed on its disk: --force-new-cluster drops what a member does not know to be so.
  for (const put of ['one', 'two']) {
    const r = await ledger.txn([], [{ put: `/flotilla/${put}`, value: '' }]);
    const members = new LedgerMembers(ledger.gateway);
    for (const e of cluster.endpoints)
      await until(`${e} to catch up`, async () => (await members.status(e)).revision >= r.revision);
  }
  for (const v of voters) {
    const { name, address, stateDir } = v.config;
    await writeClusterCache(stateDir, {
      clusterId,
      name: 'test',
      node: name,
      address,
      witness: false,
      ledgerEndpoints: cluster.endpoints,
      peers: voters.map((p) => ({ node: p.config.name, address: p.config.address })),
    });
    v.journal = new FileJournal(journalFile(stateDir));
    await v.journal.start();
  }
  return { voters, ledger, cluster, dir };
}
const programs = () => ({ etcd: etcdProgram(), etcdutl: path.join(path.dirname(etcdProgram()), 'etcdutl') });
const deps = (v: Voter, say: (text: string) => void = () => undefined): RebuildDeps => ({
  config: v.config,
  services: v,
  clock: systemClock,
  say,
  programs: programs(),
});

/** Rebuilds, dying before each step in turn. @returns the epoch, and the steps there are */
async function dyingAtEachStep(v: Voter, source: Source): Promise<{ epoch: number; steps: Set<string> }> {
  const steps = new Set<string>();
  for (let tries = 0; tries < 30; tries++) {
    let died = false;
    const say = (text: string): void => {
      if (steps.has(text) || died) return;
      steps.add(text);
      died = true;
      throw new Error('died');
    };
    try {
      return { epoch: await rebuildLedger(deps(v, say), source), steps };
    } catch (e) {
      if (!died) throw e;
    }
  }
  throw new Error('no end');
}

void t.test(
  'lost quorum: the survivor goes on alone as a new epoch, marked first, resumed after any crash',
  async (t) => {
    const { voters, cluster, ledger } = await three(t);
    const [n1, n2, n3] = voters as [Voter, Voter, Voter];
    const source = { how: 'voter' } as const;
    await t.rejects(rebuildLedger(deps(n1), source), { code: 'wrong-state', message: /it has a quorum/ });
    await n3.member.kill();
    await n1.member.kill();
    await t.rejects(rebuildLedger(deps(n1), source), { code: 'wrong-state', message: /voter at .* answers/ });
    t.same(n1.calls, [], 'nothing was touched');
    await n2.member.kill();
    // A voter that runs without a quorum is the usual case.
    n1.member.start();
    await n1.journal.record({ vm: gone, gen: 7, role: 'owner', owner: 'n1', epoch: 3 });

    const { epoch, steps } = await dyingAtEachStep(n1, source);
    t.equal(epoch, 4, 'above every epoch this node knows of');
    t.ok(steps.size >= 6, [...steps].join(', '));
    t.equal(await readProgress(n1.config.stateDir), null);
    t.match(await readClusterCache(n1.config.stateDir), { ledgerEndpoints: [n1.member.endpoint] });
    const alone = await cluster.client({ endpoints: [n1.member.endpoint] });
    t.teardown(() => alone.close());
    t.equal((await alone.get(epochKey))?.value, '4');
    t.match(JSON.parse((await alone.get(recoveryKey))?.value ?? ''), {
      epoch: 4,
      fromEpoch: 1,
      how: 'voter',
      node: 'n1',
    });
    t.equal(await alone.get(kinds.live.key('n3')), null, 'nobody counts as alive');
    t.equal(await alone.get(admittedKey('n3')), null, 'nobody is admitted');
    t.match(JSON.parse((await alone.get(kinds.vmOwn.key(web)))?.value ?? ''), { gen: 9, owner: 'n1' });
    t.equal((await new LedgerMembers(alone.gateway).list()).length, 1);
    t.ok(
      (await stat(path.join(n1.config.stateDir, 'etcd.former', 'member'))).isDirectory(),
      'the former data is kept',
    );
    await t.rejects(rebuildLedger(deps(n1), source), { code: 'wrong-state' }, 'not twice');
    await ledger.close();
  },
);

void t.test(
  'a snapshot: on a node whose data is gone; clumsy input is refused before anything is touched',
  async (t) => {
    const { voters, cluster, ledger, dir } = await three(t);
    const [n1, , n3] = voters as [Voter, Voter, Voter];
    const d = {
      dir: path.join(dir, 'shelf'),
      ledger,
      members: new LedgerMembers(ledger.gateway),
      clock: systemClock,
    };
    const { file, revision } = await takeSnapshot(d);
    await ledger.txn([], [{ put: kinds.vmOwn.key(web), value: writeRecord(kinds.vmOwn, own('n2', 12)) }]);
    for (const v of voters) await v.member.kill();
    await rm(path.join(n1.config.stateDir, 'etcd'), { recursive: true });
    await t.rejects(rebuildLedger(deps(n1), { how: 'voter' }), {
      code: 'wrong-state',
      message: /no data of a voter/,
    });
    const bad = path.join(dir, 'bad.db');
    await writeFile(bad, (await readFile(file)).subarray(0, 20_000));
    await t.rejects(rebuildLedger(deps(n1), { how: 'snapshot', file: bad }), {
      code: 'bad-input',
      message: /no snapshot/,
    });
    await t.rejects(rebuildLedger(deps(n1), { how: 'snapshot', file: `${bad}x` }), { code: 'not-found' });

    // Another cluster's node is given our snapshot.
    const cache = await readClusterCache(n3.config.stateDir);
    if (cache === null) throw new Error('no cache');
    await writeClusterCache(n3.config.stateDir, { ...cache, clusterId: randomUUID(), name: 'other' });
    await t.rejects(rebuildLedger(deps(n3), { how: 'snapshot', file }), {
      code: 'bad-input',
      message: /of another cluster, "test"/,
    });
    t.equal(await readProgress(n3.config.stateDir), null, 'as if nothing had been');
    t.ok((await stat(path.join(n3.config.stateDir, 'etcd', 'member'))).isDirectory());

    const { epoch } = await dyingAtEachStep(n1, { how: 'snapshot', file });
    t.equal(epoch, 2);
    const alone = await cluster.client({ endpoints: [n1.member.endpoint] });
    t.teardown(() => alone.close());
    const entry = await alone.get(kinds.vmOwn.key(web));
    t.match(JSON.parse(entry?.value ?? ''), { gen: 9, owner: 'n1' }, 'of the time of the snapshot');
    t.ok(
      ((await alone.get(epochKey))?.modRevision ?? 0n) > BigInt(revision) + 1_000_000n,
      'no revision comes twice',
    );
    t.match(JSON.parse((await alone.get(recoveryKey))?.value ?? ''), { how: 'snapshot', fromEpoch: 1 });
    const lines = (
      await recoverStatus(n1.config, (await readClusterCache(n1.config.stateDir)) ?? cache, systemClock)
    ).join('\n');
    t.match(lines, /The ledger answers: epoch 2, .*a recovery is under way/);
    t.match(lines, /This node’s voter runs, with a leader/);
    t.match(lines, /The key of the CA is not here/);
  },
);

void t.test('the journals are merged, questions are asked, and the end admits who answers', async (t) => {
  const { voters, cluster } = await three(t);
  const [n1, n2, n3] = voters as [Voter, Voter, Voter];
  for (const v of voters) await v.member.kill();
  await n1.journal.record({ vm: web, gen: 9, role: 'owner', owner: 'n1', epoch: 1 });
  await n2.journal.record({ vm: web, gen: 12, role: 'owner', owner: 'n2', epoch: 1 });
  await n2.journal.record({ vm: gone, gen: 3, role: 'none', owner: 'n1', epoch: 5 });
  await n3.journal.record({ vm: db, gen: 4, role: 'owner', owner: 'n3', epoch: 1 });
  await n2.answer();
  await rebuildLedger(deps(n1), { how: 'voter' });
  const ledger = await cluster.client({ endpoints: [n1.member.endpoint] });
  t.teardown(() => ledger.close());
  // On loopback a machine that is off cannot be had: the kernel refuses in its name.
  let off3 = true;
  const ask: typeof askJournal = async (config, node, address) => {
    const a = await askJournal(config, node, address);
    return node === 'n3' && off3 ? { ...a, on: false } : a;
  };
  const d = { config: n1.config, ledger, say: () => undefined, ask };

  const c = await collect(n1.config, ledger, ask);
  t.same(
    c.asked.map((a) => a.journal !== null),
    [true, true, false],
  );
  await t.rejects(confirmRecovery(d, nobody), {
    code: 'wrong-state',
    message: /Is node n3 off\?/,
    details: [{ about: 'off', subject: 'n3' }],
  });
  await t.rejects(confirmRecovery(d, { ...nobody, off: ['n2', 'n3'] }), {
    code: 'wrong-state',
    message: /n2 is not off/,
  });
  await t.rejects(confirmRecovery(d, { ...nobody, off: ['n9'] }), { code: 'not-found' });
  off3 = false;
  await t.rejects(confirmRecovery(d, { ...nobody, off: ['n3'] }), {
    code: 'wrong-state',
    message: /n3 is not off: its machine answers/,
  });
  off3 = true;
  await t.rejects(admitNode(d, 'n3'), { code: 'wrong-state', message: /under way/ });
  t.not(await ledger.get(recoveryKey), null);

  // Cut off after the ownership was written: the same comes out.
  let txns = 0;
  const dying = new Proxy(ledger, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      const call = (...args: unknown[]): unknown =>
        (value as (...a: unknown[]) => unknown).apply(target, args);
      if (name !== 'txn') return call;
      return (...args: unknown[]) => (++txns > 2 ? Promise.reject(new Error('died')) : call(...args));
    },
  });
  const off = { ...nobody, off: ['n3'] };
  await t.rejects(confirmRecovery({ ...d, ledger: dying }, off), /died/);
  t.not(await ledger.get(recoveryKey), null, 'still nothing starts');
  const done = await confirmRecovery(d, off);
  t.equal(done.epoch, 6, 'a journal spoke of epoch 5');
  t.same(done.admitted, ['n1', 'n2']);
  t.match(done.plan.lost, [{ vm: gone }]);
  t.equal(await ledger.get(recoveryKey), null);
  t.equal((await ledger.get(epochKey))?.value, '6');
  const at = async (vm: string): Promise<VmOwn> =>
    JSON.parse((await ledger.get(kinds.vmOwn.key(vm)))?.value ?? '') as VmOwn;
  t.match(await at(web), { owner: 'n2', state: 'running', fence: { armed: false } });
  t.ok((await at(web)).gen > 12 + generationLeap - 1);
  t.match(await at(db), { owner: 'n3' }, 'nobody else reaches its disks');
  for (const [node, value] of [
    ['n1', '6'],
    ['n2', '6'],
    ['n3', undefined],
  ] as const)
    t.equal((await ledger.get(admittedKey(node)))?.value, value);
  await t.rejects(confirmRecovery(d, off), { code: 'wrong-state', message: /No recovery/ });

  await t.rejects(admitNode(d, 'n3'), { code: 'node-unreachable' });
  await n3.journal.record({ vm: web, gen: 9_999, role: 'owner', owner: 'n3', epoch: 1 });
  await n3.answer();
  await t.rejects(admitNode(d, 'n3'), { code: 'wrong-state', message: /knows later than the ledger/ });
  await rm(journalFile(n3.config.stateDir));
  n3.journal = new FileJournal(journalFile(n3.config.stateDir));
  await n3.journal.start();
  await n3.journal.record({ vm: web, gen: 12, role: 'none', owner: 'n2', epoch: 1 });
  await n3.end();
  await n3.answer();
  t.same(await admitNode(d, 'n3'), { node: 'n3', epoch: 6 });
  t.equal((await ledger.get(admittedKey('n3')))?.value, '6');
});

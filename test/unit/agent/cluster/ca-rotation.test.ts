import { X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { CaRotation } from '../../../../agent/cluster/ca-rotation.js';
import { etcdEnvFile } from '../../../../agent/cluster/etcd-settings.js';
import { catchUp, fetchCaKeysFromAll, join, request } from '../../../../agent/cluster/join.js';
import { Revocation } from '../../../../agent/cluster/revocation.js';
import { Upkeep } from '../../../../agent/cluster/upkeep.js';
import { VoterSeat } from '../../../../agent/cluster/voter-seat.js';
import type { AgentEnv } from '../../../../agent/env.js';
import type { Ledger } from '../../../../agent/ledger/ledger.js';
import { absent, putRecord, RecordStore } from '../../../../agent/ledger/records.js';
import { certificateSha256, issuerIn, pemsIn, trustMark } from '../../../../agent/pki/bundle.js';
import { certificateInfo, makeCa, vouch } from '../../../../agent/pki/certificates.js';
import { readCrl } from '../../../../agent/pki/crl.js';
import { ensurePrivateKey } from '../../../../agent/pki/keys.js';
import { pkiPaths, readTls, writePublic } from '../../../../agent/pki/store.js';
import { createToken, joinTokenText } from '../../../../agent/pki/tokens.js';
import { Snapshots } from '../../../../agent/snapshot.js';
import { opFinished, queuedOp, type Op } from '../../../../core/domain/op.js';
import { ledger as kinds, metaKey, metaSchema, readRecord } from '../../../../core/wire/ledger-keys.js';
import { FakeServices, KeptLog, Rig } from './rig.js';

const opId = '4d1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11';

/** n1 and n2 vote, n3 does not; each look of an agent is one of a new process. */
async function rig(t: { testdir(): string; teardown(f: () => void): void }) {
  const r = new Rig(t.testdir());
  await r.start();
  t.teardown(() => r.stop());
  const configOf = (name: string) => {
    const at = r.nodeConfig(name, `127.0.0.1${name.slice(1)}`, r.port);
    return at;
  };
  for (const name of ['n2', 'n3'])
    await join(
      { config: configOf(name), services: new FakeServices(), clock: r.clock, log: r.log, limitMs: 0 },
      await r.token(),
    );
  await writePublic(
    etcdEnvFile(configOf('n2').stateDir),
    await readFile(etcdEnvFile(r.config.stateDir), 'utf8'),
  );
  await r.store.change(kinds.node, 'n2', (n) => (n === null ? null : { ...n, voter: true }));
  r.members = ['127.0.0.11', '127.0.0.12'].map((a, i) => ({
    id: String(i),
    name: `n${i + 1}`,
    peerUrls: [`https://${a}:2380`],
    clientUrls: [],
    learner: false,
  }));
  const services = new FakeServices();
  const restarts: string[] = [];
  const live = new Set(['n1', 'n2', 'n3']);
  const leases = new Map<string, string>();
  for (const n of live) leases.set(n, await r.client.grantLease(3_600));
  const alive = (n: string, yes: boolean): Promise<unknown> =>
    yes
      ? (live.add(n),
        r.client.txn(
          [],
          [{ put: kinds.live.key(n), value: JSON.stringify({ node: n, boot: 'b', version: '1' }) }],
        ))
      : (live.delete(n), r.client.txn([], [{ del: kinds.live.key(n) }]));
  for (const n of [...live]) await alive(n, true);

  /** @param dies - the n-th act of its agent is its last: the transaction is done or not, and the agent ends */
  const tick = async (name: string, dies = Infinity): Promise<void> => {
    let acts = 0;
    const act = async <T>(work: () => Promise<T>): Promise<T> => {
      acts++;
      if (acts > dies) throw new Error('killed');
      const result = await work();
      if (acts === dies) throw new Error('killed');
      return result;
    };
    const client: Ledger = Object.assign(Object.create(r.client) as Ledger, {
      txn: (...a: Parameters<Ledger['txn']>) => act(() => r.client.txn(...a)),
      list: (...a: Parameters<Ledger['list']>) => r.client.list(...a),
      get: (...a: Parameters<Ledger['get']>) => r.client.get(...a),
    });
    const store = new RecordStore(client, 1);
    const config = configOf(name);
    const log = new KeptLog();
    const mine = {
      enable: (u: Parameters<FakeServices['enable']>[0]) => act(() => services.enable(u)),
      disable: (u: Parameters<FakeServices['disable']>[0]) => act(() => services.disable(u)),
      reload: (u: Parameters<FakeServices['reload']>[0]) => act(() => services.reload(u)),
      active: async () => true,
      restart: (u: Parameters<FakeServices['restart']>[0]) =>
        act(async () => {
          restarts.push(`${name} ${u}`);
        }),
    };
    const lives = { compare: () => absent('/flotilla/nothing'), lease: () => leases.get(name) ?? null };
    let renew = false;
    const revocation = new Revocation({
      config,
      witness: false,
      services: mine,
      connections: { reloadMigrationPort: () => act(async () => undefined), cut: async () => undefined },
      store: () => store,
      live: lives,
      leads: () => name === 'n1',
      votersFault: async () => null,
      keeperTrusts: () => keeper,
      renew: () => (renew = true),
      onTls: () => undefined,
      clock: r.clock,
      log,
    });
    const upkeep = new Upkeep({
      config,
      services: mine,
      clock: r.clock,
      log,
      voters: () => [r.config.address],
      addresses: () => [],
      onTls: () => undefined,
    });
    const seat = new VoterSeat({
      config,
      clusterId: r.meta.id,
      services: mine,
      log,
      fetchCaKeys: (a) => fetchCaKeysFromAll(config, a),
    });
    let keeper = '';
    try {
      keeper = trustMark(await readTls(config.stateDir));
      const snapshots = new Snapshots(client);
      r.meta = (await snapshots.read()).meta?.value ?? r.meta;
      if (name !== 'n3') await seat.settle(r.members);
      await revocation.step(await snapshots.read());
      keeper = trustMark(await readTls(config.stateDir));
      await revocation.step(await snapshots.read());
      if (renew) await upkeep.step();
      if (name === 'n1') await r.reloadTls();
      await revocation.step(await snapshots.read());
    } catch (error) {
      if (!/killed/.test(String(error)) && !/killed/.test(String((error as Error).cause))) throw error;
    }
  };

  const rotations = new Map<string, CaRotation>();
  const restartRotation = (name: string): CaRotation => {
    const env = {
      node: name,
      clock: r.clock,
      log: new KeptLog(),
      ledger: r.client,
      live: { compare: () => absent('/flotilla/nothing') },
      radio: {
        heard: () => [...live].map((n) => ({ node: n, state: {}, beatAgeMs: 10 })),
        say: () => undefined,
      },
    } as unknown as AgentEnv;
    const made = new CaRotation(env, configOf(name).stateDir, () => undefined);
    rotations.set(name, made);
    return made;
  };
  const op = async (): Promise<Op> => (await r.store.require(kinds.op, opId, 'op')).value;
  /** All nodes look at the operation, some time later. */
  const rotate = async (): Promise<Op> => {
    r.clock.passedMs += 16_000;
    for (const name of live) {
      const rotation = rotations.get(name) ?? restartRotation(name);
      const before = await op();
      rotation.look(await new Snapshots(r.client).read());
      // It works by itself; what it does is one transaction, and openssl before one of them.
      const endMs = Date.now() + 300;
      while (Date.now() < endMs && JSON.stringify(await op()) === JSON.stringify(before))
        await r.clock.sleep(20);
    }
    return op();
  };
  const begin = async (without: string[] = []): Promise<void> => {
    const at = certificateSha256(r.meta.ca);
    const queued = queuedOp(
      {
        id: opId,
        kind: 'cluster.rotate-ca',
        subject: { kind: 'cluster', id: r.meta.id, name: 'test' },
        node: null,
        askedBy: 'admin',
        args: { from: at, to: null, without },
      },
      r.clock.wallMs(),
    );
    await r.store.txn([], [putRecord(kinds.op, opId, queued)]);
  };
  const meta = async () =>
    readRecord({ schema: metaSchema }, metaKey, (await r.client.get(metaKey))?.value ?? '');
  const tls = (name: string) => readTls(configOf(name).stateDir);
  return {
    r,
    configOf,
    tick,
    rotate,
    restartRotation,
    rotations,
    begin,
    op,
    meta,
    tls,
    alive,
    restarts,
    live,
  };
}

/** Whether each of them takes what the other shows. */
async function know(
  tls: (name: string) => ReturnType<typeof readTls>,
  names: readonly string[],
): Promise<boolean> {
  const all = await Promise.all(names.map(tls));
  return all.every((x) => all.every((y) => issuerIn(y.cert, x.ca) !== null));
}

void t.test(
  'the CA is replaced while agents die at every step, and all know one another all the time',
  async (t) => {
    const c = await rig(t);
    const { r, tick, rotate, begin, op, meta, tls } = c;
    const names = ['n1', 'n2', 'n3'];
    const old = r.meta.ca;
    const before = Object.fromEntries(await Promise.all(names.map(async (n) => [n, await tls(n)] as const)));
    const gone = certificateInfo(before['n3']?.cert ?? '').serial;
    // One of before, which has to stay revoked.
    const lost = 'AB'.repeat(20);
    const cert = (await r.store.require(kinds.cert, gone, 'certificate')).value;
    const fingerprint = 'c'.repeat(64);
    const revoked = { atMs: r.clock.wallMs() - 3_600_000, why: 'by-hand' as const };
    await r.store.txn(
      [],
      [putRecord(kinds.cert, lost, { ...cert, serial: lost, node: 'n9', fingerprint, pem: null, revoked })],
    );
    for (const n of names) await tick(n);
    r.clock.passedMs += 11_000;
    for (const n of names) await tick(n);
    const tokenOfBefore = await r.token({ uses: 5 });
    await begin();
    let seed = 7;
    const below = (n: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % n;
    };
    const phases = new Set<string>();
    let rounds = 0;
    while (!opFinished(await op())) {
      if (++rounds > 60) throw new Error(`still: ${(await op()).step}`);
      for (const n of names) {
        await tick(n, below(3) === 0 ? Infinity : below(6) + 1);
        t.ok(await know(tls, names), `round ${rounds}, ${n}`);
      }
      if (below(2) === 0) for (const n of names) c.restartRotation(n);
      const o = await rotate();
      const m = await meta();
      phases.add(`${certificateSha256(m.ca) === certificateSha256(old)} ${m.otherCa !== undefined}`);
      t.ok(await know(tls, names), `round ${rounds}: ${o.step}`);
    }
    t.match(await op(), { state: 'done', progress: 1 });
    for (const x of ['false false', 'false true', 'true true']) t.ok(phases.has(x), x);
    for (let i = 0; i < 3; i++) for (const n of names) await tick(n);

    const { ca } = await meta();
    t.not(certificateSha256(ca), certificateSha256(old));
    t.not(new X509Certificate(ca).subject, new X509Certificate(old).subject, 'no two CAs have one name');
    for (const n of names) {
      const now = await tls(n);
      t.same(pemsIn(now.ca).map(certificateSha256), [certificateSha256(ca)], `${n} trusts the new one alone`);
      t.equal(issuerIn(before[n]?.cert ?? '', now.ca), null, 'and takes no certificate of the old one');
      t.equal(now.key, before[n]?.key, 'its key is the same');
      const list = await readCrl(now.crl?.join('') ?? '', now.ca);
      t.same(list.serials, [lost], 'what was revoked stays so');
      const keys = pkiPaths(c.configOf(n).stateDir);
      if (n === 'n3') await t.rejects(stat(keys.caKey), { code: 'ENOENT' });
      else t.equal((await stat(keys.caKey)).mode & 0o777, 0o600);
      for (const file of [keys.caNextKey, keys.caMadeKey]) await t.rejects(stat(file), { code: 'ENOENT' });
    }
    t.equal(
      await readFile(pkiPaths(c.configOf('n1').stateDir).caKey, 'utf8'),
      await readFile(pkiPaths(c.configOf('n2').stateDir).caKey, 'utf8'),
    );
    const certs = (await r.store.list(kinds.cert)).items.map((i) => i.value);
    t.ok(
      certs.some((x) => x.serial === lost),
      'a removed key is remembered',
    );
    t.ok(
      certs.every((x) => x.pem === null || issuerIn(x.pem, ca) !== null),
      'good ones of the old CA are forgotten',
    );
    for (const n of ['n1', 'n2']) t.ok(c.restarts.filter((x) => x === `${n} flotilla-etcd`).length >= 2);
    t.notMatch(r.log.lines.join('\n'), /PRIVATE KEY/);

    // Tokens of before and of now let new nodes in.
    for (const [name, token] of [
      ['n4', tokenOfBefore],
      ['n5', await r.token()],
    ] as const) {
      const deps = {
        config: c.configOf(name),
        services: new FakeServices(),
        clock: r.clock,
        log: r.log,
        limitMs: 0,
      };
      t.match(await join(deps, token), { node: name });
      t.same(pemsIn((await tls(name)).ca).map(certificateSha256), [certificateSha256(ca)]);
    }
  },
);

void t.test(
  'a node that was off all the while comes back by itself with its key; one that was removed does not',
  async (t) => {
    const c = await rig(t);
    const { r, tick, rotate, begin, op, tls } = c;
    for (const n of ['n1', 'n2', 'n3']) await tick(n);
    await c.alive('n3', false);
    await begin();
    for (let i = 0; i < 4; i++) {
      for (const n of ['n1', 'n2']) await tick(n);
      await rotate();
    }
    t.match(await op(), { state: 'running', step: /n3 .*is not there/ });
    t.match(await c.meta(), { otherCa: undefined }, 'nothing is begun while it is not there');
    await r.store.change(kinds.op, opId, (o) =>
      o === null ? null : { ...o, args: { ...o.args, without: ['n3'] } },
    );
    for (let i = 0; i < 30 && !opFinished(await op()); i++) {
      for (const n of ['n1', 'n2']) await tick(n);
      await rotate();
    }
    t.match(await op(), { state: 'done' });
    for (const n of ['n1', 'n2']) await tick(n);
    const n3 = c.configOf('n3');
    const at = { address: r.config.address, port: r.port, path: '/membership', method: 'GET' } as const;
    await t.rejects(
      request({ ...at, tls: await tls('n3') }),
      { code: 'node-unreachable' },
      'it knows nobody',
    );

    // Somebody else's certificate of the old CA, with a key that is no node's: the old CA's key may be what was stolen.
    const node = await r.store.require(kinds.node, 'n3', 'node');
    await r.store.txn([], [putRecord(kinds.node, 'n3', { ...node.value, fingerprint: 'd'.repeat(64) })]);
    t.equal(await catchUp(n3, [r.config.address]), false);
    await r.store.txn([], [putRecord(kinds.node, 'n3', node.value)]);

    t.equal(await catchUp(n3, [r.config.address]), true);
    t.equal(await know(tls, ['n1', 'n2', 'n3']), true);
    t.match(await request({ ...at, tls: await tls('n3') }), { state: 'member' });
    t.equal(await catchUp(n3, [r.config.address]), false, 'there is nothing to catch up with');
    await c.alive('n3', true);
    await tick('n3');
    t.match((await r.store.require(kinds.trust, 'n3', 'trust')).value.trusts, [
      certificateSha256((await c.meta()).ca),
    ]);
  },
);

void t.test('who can write the ledger makes nobody trust a CA of his own', async (t) => {
  const c = await rig(t);
  const { r, tls } = c;
  await c.tick('n3');
  const keyFile = path.join(r.dir, 'evil.key');
  await ensurePrivateKey(keyFile);
  const evil = {
    keyFile,
    cert: await makeCa({ clusterId: r.meta.id, keyFile, wallMs: Date.now(), mark: 'beef' }),
  };
  const own = (await tls('n3')).ca;
  const node = await tls('n3');
  const nodeKey = { cert: node.cert, keyFile: pkiPaths(c.configOf('n3').stateDir).nodeKey };
  const words = [
    '',
    `${await vouch(evil, evil, Date.now())}${evil.cert}`,
    // A node's certificate vouches for nobody.
    `${await vouch(nodeKey, evil, Date.now())}${own}`,
  ];
  for (const handover of words) {
    for (const forged of [
      { ...r.meta, otherCa: evil.cert, handover },
      { ...r.meta, ca: evil.cert, otherCa: r.meta.ca, handover },
      { ...r.meta, ca: evil.cert, handover },
    ]) {
      r.memory.poke(metaKey, JSON.stringify(forged));
      await t.rejects(c.tick('n3'), { code: 'wrong-certificate', message: /none of ours vouches/ });
      t.equal((await tls('n3')).ca, own);
    }
  }
});

void t.test('it is taken back while the old CA signs: all is as before', async (t) => {
  const c = await rig(t);
  const { r, tick, rotate, begin, op, tls } = c;
  const names = ['n1', 'n2', 'n3'];
  for (const n of names) await tick(n);
  const before = await tls('n2');
  await begin();
  while ((await c.meta()).otherCa === undefined) await rotate();
  for (const n of names) await tick(n);
  t.equal(pemsIn((await tls('n2')).ca).length, 2);
  const [bearer, caSha256] = [
    await createToken(r.store, { kind: 'join', name: null, ttlMs: 3_600_000, uses: 1 }, r.clock.wallMs()),
    certificateSha256((await c.meta()).ca),
  ];
  const text = joinTokenText({ ...bearer, address: r.config.address, port: r.port, caSha256 });
  const deps = {
    config: c.configOf('n4'),
    services: new FakeServices(),
    clock: r.clock,
    log: r.log,
    limitMs: 0,
  };
  await join(deps, text);
  t.equal(pemsIn((await tls('n4')).ca).length, 2, 'who joins meanwhile knows both');
  await r.store.change(kinds.op, opId, (o) => (o === null ? null : { ...o, cancelAsked: true }));
  for (let i = 0; i < 5 && !opFinished(await op()); i++) await rotate();
  t.match(await op(), { state: 'cancelled' });
  for (let i = 0; i < 2; i++) for (const n of [...names, 'n4']) await tick(n);
  t.same(await tls('n2'), { ...before, crl: (await tls('n2')).crl });
  t.equal((await tls('n2')).crl?.length, 1);
  for (const n of ['n1', 'n2'])
    await t.rejects(stat(pkiPaths(c.configOf(n).stateDir).caNextKey), { code: 'ENOENT' });
});

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { resourceName } from '../../../../agent/drbd/config.js';
import { FenceDoor, FenceJudge, verdicts } from '../../../../agent/drbd/fence-door.js';
import type { PairSeen } from '../../../../core/domain/replica.js';
import { vmOwnSchema } from '../../../../core/domain/vm.js';
import { epochKey, ledger as kinds, readRecord, writeRecord } from '../../../../core/wire/ledger-keys.js';
import { MemoryLedger } from '../../../sim/memory-ledger.js';

const vm = '11111111-1111-4111-8111-111111111111';
const program = join(import.meta.dirname, '../../../../../../images/rootfs/usr/lib/flotilla/fence-peer');
const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const lost: PairSeen = {
  vm,
  role: 'Primary',
  peerRole: 'Unknown',
  connection: 'Connecting',
  suspended: true,
  volumes: [
    {
      volume: 0,
      minor: 1000,
      here: 'UpToDate',
      there: 'DUnknown',
      replication: 'Off',
      sizeBytes: 1,
      behindBytes: 0,
    },
  ],
};
const own = vmOwnSchema.parse({
  owner: 'n1',
  standby: 'n2',
  copies: ['n1', 'n2'].map((node) => ({ node, state: 'ok', epoch: 0 })),
  gen: 3,
  state: 'running',
  sync: 'ok',
  fence: { armed: true, waitMs: 1 },
  op: null,
});

async function rig(o: { live?: () => boolean; pair?: PairSeen | null } = {}) {
  let now = 0;
  const clock = { nowMs: () => now, wallMs: () => now, sleep: async (ms: number) => void (now += ms) };
  const ledger = new MemoryLedger(clock).client('n1');
  const liveKey = kinds.live.key('n1');
  await ledger.txn(
    [],
    [
      { put: epochKey, value: '1' },
      { put: liveKey, value: '{}' },
      { put: kinds.vmOwn.key(vm), value: writeRecord(kinds.vmOwn, own) },
    ],
  );
  const made = (await ledger.get(liveKey))?.createRevision ?? 0n;
  const judge = new FenceJudge({
    node: 'n1',
    clock,
    log,
    ledger,
    live: { compare: () => ((o.live?.() ?? true) ? { key: liveKey, createRevision: made } : null) },
    replication: {
      observe: async () => ({
        pairs: new Map(o.pair === null ? [] : [[vm, o.pair ?? lost]]),
        unreadable: [],
      }),
    },
  });
  const read = async () => {
    const kept = await ledger.get(kinds.vmOwn.key(vm));
    return readRecord(kinds.vmOwn, kept?.key ?? '', kept?.value ?? '');
  };
  return { ledger, judge, read, liveKey, waitedMs: () => now };
}

void t.test('stale is in the ledger before the kernel hears yes', async (t) => {
  const r = await rig();
  t.equal(await r.judge.judge(vm), verdicts.fenced);
  t.match(await r.read(), { sync: 'stale', syncEpoch: 1, gen: 3 });
  t.equal(await r.judge.judge(vm), verdicts.fenced);
  t.match(await r.read(), { syncEpoch: 2 }, 'each yes is an epoch');
});

void t.test('no lease: waited for, then refused, and nothing written', async (t) => {
  const r = await rig({ live: () => false });
  t.equal(await r.judge.judge(vm), verdicts.refused);
  t.ok(r.waitedMs() > 20_000);
  t.match(await r.read(), { sync: 'ok', syncEpoch: 0 });
});

void t.test('a lease that comes back while the kernel waits', async (t) => {
  let asked = 0;
  const r = await rig({ live: () => ++asked > 3 });
  t.equal(await r.judge.judge(vm), verdicts.fenced);
});

void t.test('a lease that is another boot’s decides nothing', async (t) => {
  const r = await rig();
  await r.ledger.txn([], [{ del: r.liveKey }]);
  await r.ledger.txn([], [{ put: r.liveKey, value: '{}' }]);
  t.equal(await r.judge.judge(vm), verdicts.refused);
  t.match(await r.read(), { sync: 'ok' });
});

void t.test('a no that stays is said at once', async (t) => {
  const other = await rig();
  await other.ledger.txn(
    [],
    [{ put: kinds.vmOwn.key(vm), value: writeRecord(kinds.vmOwn, { ...own, owner: 'n2', standby: 'n1' }) }],
  );
  t.equal(await other.judge.judge(vm), verdicts.refused);
  t.equal(other.waitedMs(), 0);
  const diskless = { ...lost, volumes: [{ ...lost.volumes[0]!, here: 'Diskless' as const }] };
  const drive = await rig({ pair: diskless });
  t.equal(await drive.judge.judge(vm), verdicts.refused);
  t.match(await drive.read(), { sync: 'ok' });
  const unseen = await rig({ pair: null });
  t.equal(await unseen.judge.judge(vm), verdicts.refused);
});

void t.test('an own that cannot be read is no yes', async (t) => {
  const r = await rig();
  await r.ledger.txn([], [{ put: kinds.vmOwn.key(vm), value: '{"owner":' }]);
  t.equal(await r.judge.judge(vm), verdicts.refused);
});

const runProgram = (socket: string, ...args: string[]): Promise<number | null> =>
  new Promise((resolve) => {
    const env = { ...process.env, FLOTILLA_FENCE_SOCKET: socket, FLOTILLA_FENCE_SECONDS: '2' };
    spawn('perl', [program, ...args], { env, stdio: 'ignore' }).on('close', resolve);
  });

void t.test('the program the kernel runs', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'fence-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 's');
  const asked: string[] = [];
  const split: number[] = [];
  let answer: (typeof verdicts)[keyof typeof verdicts] = verdicts.fenced;
  const door = new FenceDoor({
    path,
    judge: { judge: async (id) => (asked.push(id), answer) },
    onSplit: (m) => void split.push(m),
  });
  t.equal(await runProgram(path, 'fence-peer', resourceName(vm)), 1, 'no agent');
  await door.start();
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal(await runProgram(path, 'fence-peer', resourceName(vm)), 7);
  answer = verdicts.refused;
  t.equal(await runProgram(path, 'fence-peer', resourceName(vm)), 1);
  t.same(asked, [vm, vm]);
  answer = verdicts.fenced;
  t.equal(await runProgram(path, 'fence-peer', 'r0'), 1, 'a resource that is not ours');
  t.equal(await runProgram(path, 'fence-peer', 'x y'), 1);
  t.equal(await runProgram(path, 'fence-peer'), 1);
  t.equal(asked.length, 2);
  t.equal(await runProgram(path, 'before-resync-target', 'minor-1000'), 0, 'not our business');
  await runProgram(path, 'split-brain', 'minor-1000');
  t.same(split, [1000]);
  door.stop();

  // An agent that hangs, and one that talks nonsense.
  for (const say of ['', 'yes\n', '77\n', '4']) {
    const fake = join(dir, `f${say.length}`);
    const server = net.createServer(
      (s) => (s.on('error', () => undefined), say === '' ? undefined : s.end(say)),
    );
    await new Promise<void>((done) => server.listen(fake, done));
    t.equal(await runProgram(fake, 'fence-peer', resourceName(vm)), 1, `answer "${say.trim()}"`);
    server.close();
  }
});

void t.test('a disk that is still being made does not keep the others frozen', async (t) => {
  const two = '22222222-2222-4222-8222-222222222221';
  const making = {
    ...lost.volumes[0],
    volume: 1,
    minor: 1001,
    here: 'Inconsistent',
  } as PairSeen['volumes'][0];
  const r = await rig({ pair: { ...lost, volumes: [...lost.volumes, making] } });
  const note = (state: 'wanted' | 'ready') =>
    r.ledger.txn(
      [],
      [
        {
          put: kinds.replica.key(vm),
          value: writeRecord(kinds.replica, {
            vm,
            port: 7800,
            secret: '0123456789abcdef0123456789abcdef',
            nodes: ['n1', 'n2'].map((node, i) => ({ node, address: `10.0.0.${i + 1}` })),
            volumes: [{ disk: two, volume: 1, minor: 1001, pool: vm, below: '/dev/flotilla-p/d1' }],
          }),
        },
        {
          put: kinds.disk.key(two),
          value: writeRecord(kinds.disk, {
            id: two,
            name: 'more',
            vm,
            pool: vm,
            replicas: 2,
            node: null,
            format: 'raw',
            sizeBytes: 2 ** 30,
            madeBytes: 0,
            source: { kind: 'blank' },
            state,
            error: null,
          }),
        },
      ],
    );
  await note('ready');
  t.match(await r.judge.once(vm), { ok: false, why: /volume 1 here is Inconsistent/ });
  await note('wanted');
  t.match(await r.judge.once(vm), { ok: true });
});

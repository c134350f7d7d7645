import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { KeeperLink } from '../../../../agent/keeper-link.js';
import { lines, monotonicMs, readToKeeper } from '../../../../agent/keeper/protocol.js';
import { KeeperServer } from '../../../../agent/keeper/server.js';
import { systemClock } from '../../../../agent/system.js';
import { timingProfiles } from '../../../../core/domain/timing.js';
import { until } from '../ledger/real-etcd.js';
import { KeeperRig } from './fake-env.js';

const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const timing = timingProfiles.production;

/** A keeper on fake time behind its real socket. Its clock is set to the machine's. */
async function setup(t: Test) {
  const rig = new KeeperRig();
  await rig.clock.advance(monotonicMs() - rig.clock.nowMs());
  // A socket's path has 107 bytes at most.
  const dir = mkdtempSync(path.join(tmpdir(), 'keeper-'));
  const file = path.join(dir, 'keeper.sock');
  const server = new KeeperServer({ path: file, log });
  rig.onPublish = (s) => server.publish(s);
  await rig.up();
  await server.start(rig.keeper);
  const link = new KeeperLink({ path: file, node: 'n1', timing, clock: systemClock, log });
  link.start();
  t.teardown(async () => {
    await link.stop();
    server.stop();
    await rig.end();
    rmSync(dir, { recursive: true });
  });
  return { rig, file, server, link };
}

void t.test('the agent sees the state, arms and disarms, and counts on a young renewal only', async (t) => {
  const { rig, file, link } = await setup(t);
  t.equal(statSync(file).mode & 0o777, 0o600, 'for root only');
  t.equal(link.state(), null);
  t.equal(link.compare(), null, 'before it answered');
  await until('the state', () => link.state() !== null);
  const createRevision = rig.keeper.state().createRevision;
  t.match(link.state(), { mode: 'run', createRevision, armable: { ok: true, waitMs: 7_000 }, armed: [] });
  const ageMs = systemClock.nowMs() - (link.state()?.goodMs ?? 0);
  t.ok(ageMs > -1_000 && ageMs < 2_000, `on the agent's clock: ${ageMs}`);
  t.same(link.compare(), { key: '/flotilla/live/n1', createRevision });
  t.equal(link.lease(), rig.keeper.state().lease);
  t.ok(link.health().ok);

  let changes = 0;
  link.onChange(() => changes++);
  const armed = link.arm('a', { takeover: ['/srv/a.json'], gen: 1 });
  await until('the question', () => (rig.store.run?.armed.length ?? 0) > 0);
  await rig.clock.advance(50);
  t.same(await armed, { waitMs: 7_000 });
  t.same(rig.store.run?.armed, [{ vm: 'a', takeover: ['/srv/a.json'], gen: 1, confirmed: true }]);
  t.equal(await link.holds('a'), true);
  t.equal(await link.holds('never-armed'), false);
  await until('the state that follows', () => link.state()?.armed.length === 1);
  t.ok(changes >= 1);
  const seen = changes;
  await rig.clock.advance(3_000);
  await until('a younger renewal', () => (link.state()?.goodMs ?? 0) > systemClock.nowMs());
  t.equal(changes, seen, 'a renewal alone is no news');
  await link.disarm('a');
  t.same(rig.keeper.state().armed, []);
  t.equal(await link.holds('a'), false);

  rig.watchdog.timeoutMs = 1;
  const refused = await link.arm('b', { takeover: [], gen: 1 }).catch((e: unknown) => e);
  t.match(refused, { code: 'not-armable', message: /fires after/ });
});

void t.test('a renewal that grows old, another mode, or silence: nothing is started', async (t) => {
  const { rig, server, link } = await setup(t);
  await until('the state', () => link.compare() !== null);
  await until('it to be too old', () => link.compare() === null, 5_000);
  t.equal(link.state()?.mode, 'run', 'though nobody said otherwise');
  rig.client.partitioned = true;
  await rig.clock.advance(3_000);
  await until('the mode', () => link.state()?.mode === 'ice');
  t.notOk(link.health().ok);
  server.stop();
  await until('it to be gone', () => link.state() === null);
  t.match(await link.arm('a', { takeover: [], gen: 1 }).catch((e: unknown) => e), { code: 'not-armable' });
  t.match(link.health(), { ok: false, text: /does not answer/ });
});

void t.test('lines: in pieces, and never without end', async (t) => {
  const got: string[] = [];
  const take = lines((l) => got.push(l));
  take('{"a":');
  take('1}\n{}\n{"b"');
  t.same(got, ['{"a":1}', '{}']);
  t.throws(() => take('x'.repeat(1_100_000)));
  t.same(readToKeeper('{"beat":true}'), { beat: true });
  for (const bad of [
    '',
    '[]',
    'null',
    '{"id":1}',
    '{"arm":"x","takeover":[]}',
    '{"id":1,"arm":"x","takeover":["a"]}',
  ]) {
    t.equal(readToKeeper(bad), null, bad);
  }
});

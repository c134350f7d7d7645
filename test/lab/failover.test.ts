import { readFile } from 'node:fs/promises';
import path from 'node:path';
import t, { type Test } from 'tap';
import type { HaView } from '../../core/wire/rest.js';
import { LabBmc } from './bmc.js';
import { Drills, LockHolder } from './drill.js';
import { waitFor } from './harness.js';

/** Nodes lose power, network and programs; the VMs are watched from outside: they come back, and never twice. */

const d = await Drills.up({ id: 'fldrill', net: '10.85.0', guestNet: '10.85.100' });
const { c, lab, ear, timing } = d;
t.teardown(() => d.down());

/** A node that is none of these. */
const other = (...nodes: string[]): string => {
  const node = d.nodes.find((n) => !nodes.includes(n));
  if (node === undefined) throw new Error('no node is left');
  return node;
};
/** The disk of a VM as this machine sees it. */
const imageOf = async (name: string): Promise<string> => {
  const { spec } = await c.get<{ spec: { disks: { disk: string }[] } }>(`vms/${name}`).then((r) => r.body);
  return path.join(lab.share, 'disks', `${spec.disks[0]?.disk}.qcow2`);
};
const setPolicy = (ha: Record<string, boolean>): Promise<unknown> => c.must('PATCH', 'policy', { ha });
/** Where the VM is, where it would go, and where to look at both from. */
const roles = async (name: string): Promise<{ owner: string; standby: string; third: string }> => {
  const standby = await d.untilProtected(name);
  const owner = await d.ownerOf(name);
  return { owner, standby, third: other(owner, standby) };
};
/** Each ends with what must always hold. One that fails says what the nodes did, and leaves all mended for the next. */
const drill = (name: string, act: (t: Test) => Promise<void>): Promise<unknown> =>
  t.test(name, async (t) => {
    const began = Date.now();
    try {
      await act(t);
    } catch (e) {
      t.comment(await d.words());
      await lab.heal();
      await lab.must('boot', ...d.nodes);
      await c.controllerOn('n1');
      await setPolicy({ hold: false, paused: false });
      await d.allThere();
      throw e;
    } finally {
      t.comment(`${Math.round((Date.now() - began) / 1000)} s`);
      t.same(d.violations(), [], 'no VM twice, no write lost');
    }
  });

await drill('a VM with HA is armed and has a standby', () => d.witness('web', 'n2'));

await drill('the standby loses power: another one is chosen, the VM notices nothing', async (t) => {
  const { owner, standby, third } = await roles('web');
  await c.controllerOn(third);
  const boot = d.bootOf('web');
  await lab.kill(standby);
  await waitFor(
    'another standby',
    async () => (await d.vm('web')).ha.standby === third && (await d.vm('web')).ha.state === 'protected',
  );
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot);
  t.equal(await d.ownerOf('web'), owner);
  await d.back(standby);
});

await drill('programs of the owner are stopped and killed: the VM goes on where it was', async (t) => {
  const { owner } = await roles('web');
  await c.controllerOn(other(owner));
  const boot = d.bootOf('web');
  const gen = (await d.own('web', owner)).gen;
  const units = ['flotilla-agent', 'libvirtd', 'flotilla-mosquitto', 'flotilla-etcd'];
  for (const unit of units) {
    const pid = await d.pidOf(owner, unit);
    await d.signal(owner, pid, 'STOP');
    const stopped = ear.nowMs;
    await waitFor(`longer than ${unit} may be away`, () => ear.nowMs - stopped > timing.renewalGoodMs + 500);
    t.equal(await d.frozen(owner, 'web'), false, `${unit} stopped: nothing is frozen`);
    await d.signal(owner, pid, 'CONT');
  }
  for (const unit of [...units, 'flotilla-keeper']) await d.signal(owner, await d.pidOf(owner, unit), 'KILL');
  await d.goesOn('web');
  await d.allThere();
  await d.untilProtected('web');
  t.equal(d.bootOf('web'), boot, 'the same boot');
  t.equal((await d.own('web', owner)).gen, gen, 'and nobody touched its ownership');
});

await drill('its QEMU is stopped and goes on; killed, it is started again where it was', async (t) => {
  const { owner } = await roles('web');
  const boot = d.bootOf('web');
  const [pid = 0] = await d.machines(owner, 'web');
  await d.signal(owner, pid, 'STOP');
  await d.signal(owner, pid, 'CONT');
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot);
  await d.signal(owner, pid, 'KILL');
  await d.bootsAfter('web', boot);
  t.equal(await d.ownerOf('web'), owner);
  t.same(await d.failoverOps('web'), []);
});

await drill("one voter's disk is full: the ledger goes on, no VM notices", async (t) => {
  const { owner } = await roles('web');
  const full = other(owner);
  const boot = d.bootOf('web');
  try {
    await lab.sh(full, 'fallocate -l $(df --output=avail -B1 /var/lib | tail -1) /var/lib/full || true');
    await lab.sh(full, 'dd if=/dev/zero of=/var/lib/fuller bs=4k 2>/dev/null || true');
    await lab.sh(full, 'systemctl kill -s KILL flotilla-etcd');
    await c.controllerOn(other(owner, full));
    // If that voter led, the election may take longer than a request waits for it.
    await waitFor('the ledger takes a change', () =>
      c.must('PATCH', 'vms/web', { note: 'changed while a disk was full' }),
    );
    await d.goesOn('web');
    t.equal(d.bootOf('web'), boot);
    t.equal(await d.frozen(owner, 'web'), false);
  } finally {
    await lab.sh(full, 'rm -f /var/lib/full /var/lib/fuller');
  }
  await d.allThere();
});

await drill('a glitch, one way or both: the VM pauses, and goes on where it was', async (t) => {
  const { owner } = await roles('web');
  await c.controllerOn(other(owner));
  const boot = d.bootOf('web');
  const pairs = (pair: (node: string) => string): string =>
    `{ ${d.nodes
      .filter((n) => n !== owner)
      .map(pair)
      .join(', ')} }`;
  const oneWay = (elements: string): Promise<unknown> =>
    lab.must('nft', 'add', 'element', 'bridge', 'lab', 'cut', elements);
  const glitches: [string, () => Promise<unknown>][] = [
    ['cut off', () => lab.cut(owner)],
    ['mute', () => oneWay(pairs((n) => `p-${owner} . p-${n}`))],
    ['deaf', () => oneWay(pairs((n) => `p-${n} . p-${owner}`))],
  ];
  for (const [how, cut] of glitches) {
    await cut();
    await waitFor(`${how}: frozen`, () => d.frozen(owner, 'web'), { limitMs: timing.renewalGoodMs * 4 });
    await lab.heal();
    await d.goesOn('web');
    t.equal(d.bootOf('web'), boot, `${how}: the same boot`);
    t.equal(await d.ownerOf('web'), owner, `${how}: the same owner`);
    await d.allThere();
  }
});

await drill('the owner reaches one voter in one direction only: nothing freezes', async (t) => {
  const { owner, standby } = await roles('web');
  await d.lead(standby);
  const boot = d.bootOf('web');
  await lab.must('nft', 'add', 'element', 'bridge', 'lab', 'cut', `{ p-${standby} . p-${owner} }`);
  const cutMs = ear.nowMs;
  let froze = false;
  await waitFor('longer than a lease', async () => {
    froze ||= await d.frozen(owner, 'web');
    return ear.nowMs - cutMs > timing.leaseTtlS * 1000 + 1_000;
  });
  await lab.heal();
  t.notOk(froze);
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot);
  await d.allThere();
});

await drill('the owner loses power, with the controller on it: the VM runs on the standby', async (t) => {
  const { owner, standby, third } = await roles('web');
  await d.lead(third);
  await c.controllerOn(owner);
  const before = await d.failoverOps('web');
  const boot = d.bootOf('web');
  await lab.kill(owner);
  // Nobody but the nodes themselves is there to do it.
  await d.bootsAfter('web', boot);
  await c.controllerOn(third);
  const line = await d.takenOver('web', before);
  t.match(line, { from: owner, to: standby, fence: 'waited' });
  t.comment(JSON.stringify(line.phasesMs));
  const { phasesMs: p } = line;
  t.ok((p['wait-over'] ?? 0) - (p['lease-gone'] ?? 0) >= timing.fenceWaitMs, 'the fence wait was kept');
  const ha = (await c.get<HaView>('ha')).body;
  t.match(ha.failovers[0], { name: 'web', totalMs: Number }, 'at a glance, too');
  t.equal(await d.ownerOf('web'), standby);
  await d.back(owner);
  t.same(await d.machines(owner, 'web'), [], 'the old owner has no machine of it');
});

await drill('the owner is cut off: frozen, taken over, killed by the word in the pool', async (t) => {
  const { owner, standby, third } = await roles('web');
  await c.controllerOn(third);
  const before = await d.failoverOps('web');
  const boot = d.bootOf('web');
  await lab.cut(owner);
  const cutMs = ear.nowMs;
  await waitFor('frozen', () => d.frozen(owner, 'web'), { limitMs: timing.renewalGoodMs * 3 });
  await d.takenOver('web', before);
  await waitFor(
    'the frozen machine is killed while it is cut off',
    async () => (await d.machines(owner, 'web')).length === 0,
  );
  const last = ear
    .of('web')
    .filter((w) => w.boot === boot)
    .at(-1);
  t.ok(
    (last?.atMs ?? Infinity) - cutMs < timing.leaseTtlS * 1000,
    `silent ${Math.round((last?.atMs ?? 0) - cutMs)} ms after the cut`,
  );
  t.equal(await d.ownerOf('web'), standby);
  t.ok((await lab.nodes()).includes(owner), 'no node was reset');
  await d.bootsAfter('web', boot);
  await lab.heal();
  await d.allThere();
  t.equal(await d.ownerOf('web'), standby);
});

await drill('the owner loses all networks and the pool: frozen until healing, then killed', async (t) => {
  const { owner, standby, third } = await roles('web');
  await c.controllerOn(third);
  const before = await d.failoverOps('web');
  const boot = d.bootOf('web');
  // QEMU has its image open, and with it the lock; no word in the pool can be read any more.
  await lab.sh(owner, 'umount -l /srv/shared');
  const guests = (state: string): Promise<unknown> =>
    lab.fabric('bridge', 'link', 'set', 'dev', `q-${owner}`, 'state', state);
  const began = Date.now();
  await guests('0');
  await lab.cut(owner);
  await d.startRefused('web', standby, began);
  // The controller may have read the ledger at the node that is cut off now: it notices that within seconds.
  await waitFor('the page says it, too', async () => (await d.ownerOf('web')) === standby);
  t.equal(await d.frozen(owner, 'web'), true, 'the old machine is there, and frozen');
  await guests('3');
  await lab.heal();
  await waitFor('it is killed', async () => (await d.machines(owner, 'web')).length === 0);
  await d.takenOver('web', before);
  await d.bootsAfter('web', boot);
  t.ok((await lab.nodes()).includes(owner), 'no node was reset');
  t.equal(await d.ownerOf('web'), standby);
  // Its pool is mounted again at boot.
  await lab.kill(owner);
  await d.back(owner);
});

await drill(
  "the etcd leader's node loses power, which owns the VM, and its image stays locked for a while",
  async (t) => {
    const { owner, standby, third } = await roles('web');
    await d.lead(owner);
    await c.controllerOn(third);
    const before = await d.failoverOps('web');
    const boot = d.bootOf('web');
    const lock = new LockHolder(await imageOf('web'));
    try {
      await lock.held;
      const began = Date.now();
      await lab.kill(owner);
      await d.startRefused('web', standby, began);
      t.equal(await d.takenOver('web', before, 1).catch(() => null), null);
    } finally {
      lock.release();
    }
    t.match(await d.takenOver('web', before), { to: standby });
    await d.mended('web', boot, owner);
  },
);

await drill('the keeper hangs: the watchdog resets the node, its VM is taken over', async (t) => {
  const { owner, third } = await roles('web');
  await c.controllerOn(third);
  const before = await d.failoverOps('web');
  const boot = d.bootOf('web');
  await d.signal(owner, await d.pidOf(owner, 'flotilla-keeper'), 'STOP');
  await waitFor(`${owner} is reset`, async () => !(await lab.nodes()).includes(owner), {
    limitMs: timing.watchdogMs * 4,
  });
  t.match(await readFile(path.join(lab.dir, owner, 'console.log'), 'utf8'), /it bites/);
  await d.takenOver('web', before);
  await d.mended('web', boot, owner);
});

await drill('failovers are held: the VM waits for a person', async (t) => {
  const { owner, standby, third } = await roles('web');
  await c.controllerOn(third);
  const before = await d.failoverOps('web');
  const boot = d.bootOf('web');
  await setPolicy({ hold: true });
  await lab.kill(owner);
  await waitFor('the page says so', async () => {
    const { waiting } = (await c.get<{ waiting: { name: string; text: string }[] }>('ha')).body;
    const { nodes } = (await c.get<{ nodes: { node: string; failover: string }[] }>('ha')).body;
    return waiting.length === 1 && /held/.test(nodes.find((n) => n.node === standby)?.failover ?? '');
  });
  t.equal((await d.own('web', third)).owner, owner);
  await setPolicy({ hold: false });
  await d.takenOver('web', before);
  await d.mended('web', boot, owner);
});

await drill('HA is paused: nobody takes the VM, until a person says that the node is off', async (t) => {
  const { owner, standby, third } = await roles('web');
  await c.controllerOn(third);
  const boot = d.bootOf('web');
  await setPolicy({ paused: true });
  await waitFor('disarmed', async () => !(await d.own('web', third)).fence.armed);
  await lab.kill(owner);
  const killed = ear.nowMs;
  await waitFor('the lease is gone', async () => {
    const { nodes } = (await c.get<{ nodes: { node: string; live: boolean }[] }>('ha')).body;
    return nodes.find((n) => n.node === owner)?.live === false;
  });
  await setPolicy({ paused: false });
  await waitFor('the page says why', async () => {
    const { nodes } = (await c.get<{ nodes: { node: string; failover: string }[] }>('ha')).body;
    return /not armed.*confirm-off/.test(nodes.find((n) => n.node === standby)?.failover ?? '');
  });
  await waitFor(
    'longer than any wait',
    () => ear.nowMs - killed > timing.leaseTtlS * 1000 + timing.fenceWaitMs + 3_000,
  );
  t.equal((await d.own('web', third)).owner, owner);
  const before = await d.failoverOps('web');
  await c.must('POST', `nodes/${owner}/actions/confirm-off`);
  t.match(await d.takenOver('web', before), { fence: 'person', to: standby });
  await d.mended('web', boot, owner);
});

await drill('a node with a BMC is powered off, and nobody waits for its watchdog', async (t) => {
  const { owner, standby, third } = await roles('web');
  await c.controllerOn(third);
  const bmc = new LabBmc(lab, owner);
  await bmc.start();
  try {
    await c.must('PUT', `nodes/${owner}/bmc`, bmc.device);
    const before = await d.failoverOps('web');
    const boot = d.bootOf('web');
    // It runs, and cannot be reached: only its BMC can tell the others that it does not any more.
    await lab.cut(owner);
    const line = await d.takenOver('web', before);
    t.comment(JSON.stringify(line.phasesMs));
    t.match(line, { fence: 'bmc', to: standby });
    const { phasesMs: p } = line;
    const waitedMs = (p['wait-over'] ?? Infinity) - (p['lease-gone'] ?? 0);
    t.ok(waitedMs < timing.fenceWaitMs, `sooner than by waiting: ${waitedMs} ms`);
    t.notOk((await lab.nodes()).includes(owner), 'it is off');
    await lab.heal();
    await c.must('DELETE', `nodes/${owner}/bmc`);
    await d.mended('web', boot, owner);
  } finally {
    bmc.stop();
  }
});

await drill(
  'two of three lose power: the third freezes and starts nothing; one comes back, all goes on',
  async (t) => {
    const { owner, standby, third } = await roles('web');
    const boot = d.bootOf('web');
    await c.controllerOn(owner);
    await lab.must('kill', standby, third);
    await waitFor('frozen', () => d.frozen(owner, 'web'), { limitMs: timing.renewalGoodMs * 4 });
    const r = await lab.fabric('curl', '-sk', `https://${lab.address(owner)}:7443/healthz`);
    t.equal((JSON.parse(r.stdout) as { ok: boolean }).ok, false, "the node's page says that it is not well");
    const refused = await c.call<{ code: string }>('POST', 'vms/web/actions/stop');
    t.equal(refused.body.code, 'ledger-unavailable');
    t.same([refused.status, d.bootOf('web')], [503, boot]);
    await lab.boot(third);
    await d.goesOn('web');
    t.equal(d.bootOf('web'), boot, 'the same boot: it was only frozen');
    await d.back(standby);
  },
);

await drill('the whole cluster is off and on: everything comes back once', async (t) => {
  const { owner } = await roles('web');
  const boot = d.bootOf('web');
  await lab.must('kill', ...d.nodes);
  await lab.must('boot', ...d.nodes);
  await d.bootsAfter('web', boot);
  await c.controllerOn(owner);
  await d.allThere();
  const boots = ear.boots('web');
  await d.untilProtected('web');
  await d.goesOn('web');
  t.equal(boots.indexOf(boot), boots.length - 2, 'one boot followed');
  // Of the last one the guest agent may still be waited for.
  const [, ...ops] = await d.failoverOps('web');
  t.same(
    ops.filter((o) => o.state !== 'done').map((o) => `${o.state} ${o.step}`),
    [],
    'every failover is told to its end',
  );
});

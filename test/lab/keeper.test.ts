import { readFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import { timingProfiles } from '../../core/domain/timing.js';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/** The keeper on real nodes: systemd's unit, the kernel's freezer, a watchdog that bites. */

const c = new LabCluster({ id: 'flkeeper', net: '10.82.0', guestNet: '10.82.100', timing: 'production' });
const { lab } = c;
const timing = timingProfiles[lab.timing];
t.teardown(() => c.down());

await c.up(3);
await c.must('POST', 'pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
await waitFor('the pool is known of every node', async () => {
  const { body } = await c.get<{ items: { use: { ok: boolean }[] }[] }>('pools');
  return body.items.every((p) => p.use.length === 3 && p.use.every((u) => u.ok));
});
await c.image('tiny', 'shared', await readFile('build/images/tiny.qcow2'));

interface RunFile {
  boot: string;
  mode: string;
  lease: string;
  createRevision: string;
  armed: { vm: string; confirmed: boolean }[];
}
const keeper = async (node: string): Promise<RunFile> =>
  JSON.parse(await lab.sh(node, 'cat /run/flotilla/keeper.json')) as RunFile;
const pidOf = (node: string, unit: string): Promise<string> =>
  lab.sh(node, `systemctl show -p MainPID --value ${unit}`);
const scopeOf = (node: string, id: string): Promise<string> =>
  lab.sh(
    node,
    `cat /proc/$(pgrep -f -- '-uuid ${id}' | head -1)/cgroup | sed -n 's/^0:://p' | grep -o '.*[.]scope'`,
  );
const frozen = async (node: string, scope: string): Promise<boolean> =>
  /frozen 1/.test(await lab.sh(node, `cat '/sys/fs/cgroup${scope}/cgroup.events'`));
const ticks = async (node: string, id: string): Promise<number> =>
  Number(await lab.sh(node, `grep -c . /var/lib/flotilla/consoles/${id}.log || true`));
const goesOn = async (node: string, id: string): Promise<void> => {
  const before = await ticks(node, id);
  await waitFor('the guest goes on', async () => (await ticks(node, id)) > before);
};
const console = (node: string): Promise<string> => readFile(path.join(lab.dir, node, 'console.log'), 'utf8');

type Change = { op: Op; vm: { id: string } };
const { op, vm } = await c.must<Change>('POST', 'vms', {
  name: 'web',
  node: 'n3',
  memoryMiB: 96,
  disks: [{ name: 'root', pool: 'shared', image: 'tiny', mode: 'linked' }],
  power: 'running',
  ha: { enabled: true },
});
const end = await c.opEnd(op);
if (end.state !== 'done') throw new Error(`the VM: ${JSON.stringify(end.error)}`);
await waitFor('the guest speaks', async () => (await ticks('n3', vm.id)) > 5, { limitMs: 120_000 });
await waitFor('it is armed', async () =>
  (await keeper('n3')).armed.some((a) => a.vm === vm.id && a.confirmed),
);
const scope = await scopeOf('n3', vm.id);

await t.test('small: memory and CPU of the keeper', async (t) => {
  const pid = await pidOf('n3', 'flotilla-keeper');
  const cpu = async (): Promise<number> => {
    const [user, system] = (await lab.sh('n3', `cut -d' ' -f14,15 /proc/${pid}/stat`)).split(' ');
    return (Number(user) + Number(system)) / 100;
  };
  const [before, began] = [await cpu(), Date.now()];
  await waitFor('many renewals', () => Date.now() - began > 20_000);
  const pct = (((await cpu()) - before) * 100_000) / (Date.now() - began);
  const rss = Number(await lab.sh('n3', `awk '/^Rss/{print $2}' /proc/${pid}/smaps_rollup`)) / 1024;
  t.comment(`${rss.toFixed(1)} MiB resident, ${pct.toFixed(2)} % of a core`);
  t.ok(rss < 64, 'memory');
  // How little is for scripts/bench node; that it does not spin, here.
  t.ok(pct < 10, 'CPU');
});

await t.test("its memory and the ledger's are protected all the way up", async (t) => {
  // In a lab the memory and CPU of a node are not its kernel's to give: what systemd would set.
  const show = (unit: string, what: string): Promise<string> =>
    lab.sh('n3', `systemctl show -P ${what} ${unit}`);
  for (const [unit, megabytes] of [
    ['flotilla.slice', 192],
    ['flotilla-keeper', 64],
    ['flotilla-etcd', 128],
  ] as const) {
    t.match(await show(unit, 'ControlGroup'), /^\/flotilla\.slice/, unit);
    t.equal(Number(await show(unit, 'MemoryMin')), megabytes * 2 ** 20, unit);
  }
  t.equal(await show('flotilla.slice', 'CPUWeight'), '1000');
});

await t.test('cut off: frozen in time, the node stays up; healed: it goes on where it was', async (t) => {
  await lab.cut('n3');
  const cutMs = Date.now();
  await waitFor('frozen', () => frozen('n3', scope), { limitMs: timing.renewalGoodMs * 2 });
  t.ok(Date.now() - cutMs < timing.renewalGoodMs + 3_000, `frozen after ${Date.now() - cutMs} ms`);
  // Back before a standby has waited the fence out.
  await lab.heal('n3');
  await waitFor('thawed', async () => !(await frozen('n3', scope)));
  t.equal((await keeper('n3')).mode, 'run');
  await goesOn('n3', vm.id);
  t.equal((await c.vm('web')).node, 'n3');
});

await t.test('the keeper is killed: same life, nothing freezes, nobody is reset', async (t) => {
  const before = await keeper('n3');
  await lab.sh('n3', `kill -9 ${await pidOf('n3', 'flotilla-keeper')}`);
  let froze = false;
  const began = Date.now();
  await waitFor(
    'longer than the watchdog waits',
    async () => {
      froze ||= await frozen('n3', scope);
      return Date.now() - began > timing.watchdogMs + 5_000;
    },
    { limitMs: timing.watchdogMs * 3 },
  );
  const after = await keeper('n3');
  t.notOk(froze);
  t.same(
    [after.boot, after.lease, after.createRevision, after.mode, after.armed],
    [before.boot, before.lease, before.createRevision, 'run', before.armed],
  );
  await goesOn('n3', vm.id);
});

/** How many processes besides the keeper have its watchdog open: PID 1, which keeps it. */
const keptOpen = async (node: string): Promise<string> =>
  lab.sh(
    node,
    'ls -l /proc/1/fd | grep -c /dev/watchdog || true; systemctl show -P NFileDescriptorStore flotilla-keeper',
  );

await t.test('killed again and again: the watchdog stays open, so that no death of it pets', async (t) => {
  t.equal(await keptOpen('n3'), '1\n1');
  for (let i = 0; i < 5; i++) {
    const pid = await pidOf('n3', 'flotilla-keeper');
    await lab.sh('n3', `kill -9 ${pid}`);
    t.equal(await keptOpen('n3'), '1\n1');
    await waitFor('another keeper', async () => !['0', pid].includes(await pidOf('n3', 'flotilla-keeper')));
  }
  await waitFor('RUN', async () => (await keeper('n3')).mode === 'run');
  await goesOn('n3', vm.id);
});

await t.test(
  'disarmed: nobody has it open, and silence resets nobody; armed again: kept again',
  async (t) => {
    const armed = async (): Promise<number> => (await keeper('n3')).armed.length;
    const ha = async (enabled: boolean): Promise<void> => {
      const end = await c.opEnd((await c.must<Change>('PATCH', 'vms/web', { ha: { enabled } })).op);
      if (end.state !== 'done') throw new Error(`HA: ${JSON.stringify(end.error)}`);
    };
    await ha(false);
    await waitFor('disarmed', async () => (await armed()) === 0);
    await waitFor('let go', async () => (await keptOpen('n3')) === '0\n0');
    const began = Date.now();
    await waitFor('longer than the watchdog waits', () => Date.now() - began > timing.watchdogMs + 5_000, {
      limitMs: timing.watchdogMs * 3,
    });
    t.ok((await lab.nodes()).includes('n3'));
    await ha(true);
    await waitFor('armed', async () => (await armed()) === 1);
    await waitFor('kept', async () => (await keptOpen('n3')) === '1\n1');
  },
);

await t.test('the agent is killed: nothing', async (t) => {
  const before = await keeper('n3');
  await lab.sh('n3', `kill -9 ${await pidOf('n3', 'flotilla-agent')}`);
  await goesOn('n3', vm.id);
  await c.untilHere(3);
  t.equal((await keeper('n3')).createRevision, before.createRevision);
  t.same((await keeper('n3')).armed, before.armed);
});

await t.test('an upgrade keeps the lease', async (t) => {
  const before = await keeper('n3');
  await lab.sh('n3', 'systemctl restart flotilla-keeper');
  await waitFor('RUN', async () => (await keeper('n3')).mode === 'run');
  t.equal((await keeper('n3')).createRevision, before.createRevision);
  await goesOn('n3', vm.id);
});

await t.test('the keeper hangs: the watchdog takes the node down', async (t) => {
  await lab.sh('n3', `kill -STOP ${await pidOf('n3', 'flotilla-keeper')}`);
  await waitFor('n3 to lose its power', async () => !(await lab.nodes()).includes('n3'), {
    limitMs: timing.watchdogMs * 2,
  });
  t.match(await console('n3'), /it bites/);
});

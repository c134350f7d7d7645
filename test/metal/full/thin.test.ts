import t from 'tap';
import type { Op } from '../../../core/domain/op.js';
import { groupName } from '../../../core/domain/pool.js';
import { Drills } from '../../lab/drill.js';
import { waitFor } from '../../lab/harness.js';

/** A pool of drives on a real kernel: made from blank ones, full, enlarged, and there again after a boot. */

process.env['METAL_DRIVE_SIZE'] = '512M';
const d = await Drills.up({ kind: 'metal', id: 'rigthin', nodes: 1 });
const { c, lab } = d;
t.teardown(() => d.down());

interface Use {
  readonly ok: boolean;
  readonly text: string;
  readonly totalBytes: number;
  readonly thin?: { readonly dataPct: number };
}
const MiB = 2 ** 20;
const use = async (): Promise<Use> => {
  const { body } = await c.get<{ items: { name: string; use: Use[] }[] }>('pools');
  const [found] = body.items.find((p) => p.name === 'fast')?.use ?? [];
  if (found === undefined) throw new Error('nobody has said how the pool is');
  return found;
};
const disks = [{ name: 'root', pool: 'fast', image: 'bare', mode: 'full' }];

let group = '';
await t.test('two blank drives, one of them made a pool', async (t) => {
  const pool = await c.must<{ id: string }>('POST', 'pools', {
    name: 'fast',
    kind: 'thin',
    drives: [{ node: 'n1', drive: 'drive1' }],
  });
  group = groupName(pool.id);
  const made = await waitFor('it is well', async () => {
    const u = await use();
    if (!u.ok) throw new Error(u.text);
    return u;
  });
  t.ok(made.totalBytes > 300 * MiB && made.totalBytes < 512 * MiB, `${made.totalBytes} bytes`);
  t.equal(await lab.sh('n1', `lvs --noheadings -o discards ${group}/pool`), 'passdown');
  t.equal(await lab.sh('n1', 'wipefs -n /dev/vdd'), '', 'the other drive is as it was');
});

await t.test('VMs in it and beside it count', async (t) => {
  await d.guest('solid', 'n1', { disks });
  // Has written nothing yet but what its image has.
  const spec = {
    name: 'fresh',
    node: 'n1',
    memoryMiB: 96,
    nics: [{ network: 'lan' }],
    power: 'stopped',
    disks,
  };
  const { op, vm } = await c.must<{ op: Op; vm: { id: string } }>('POST', 'vms', spec);
  d.ids.set('fresh', vm.id);
  d.ear.names.set(vm.id, 'fresh');
  t.equal((await c.opEnd(op)).state, 'done');
  await d.guest('beside', 'n1', { disks: [{ ...disks[0], pool: 'shared' }] });
});

await t.test(
  'full: a guest that writes to a new place pauses, others go on, and nothing new is made',
  async (t) => {
    // A volume by hand takes all there is. Its writes wait, and then fail.
    await lab.exec(
      'n1',
      'sh',
      '-c',
      `lvcreate -q -V 1g -T ${group}/pool -n filler && dd if=/dev/zero of=/dev/${group}/filler bs=1M oflag=direct`,
    );
    t.equal(await lab.sh('n1', `lvs --noheadings -o lv_health_status ${group}/pool`), 'out_of_data');
    const full = await waitFor('the node says so', async () => {
      const u = await use();
      return (u.thin?.dataPct ?? 0) >= 99 && u;
    });
    t.match(full.text, /% full/);
    const refused = await c
      .must<{ op: Op }>('POST', 'vms', { name: 'late', node: 'n1', memoryMiB: 64, disks })
      .then(({ op }) => c.opEnd(op))
      .then(
        (op) => `${op.state} ${op.error?.code}`,
        (e: unknown) => String(e),
      );
    t.match(refused, /no-space/);
    // One that writes where it has written before goes on; one that writes anywhere else pauses.
    await d.goesOn('solid');
    await c.must('POST', 'vms/fresh/actions/start');
    // A machine that starts stands still for a moment, too: for no such reason.
    const paused = await waitFor('it says why it stands still', async () => {
      const vm = await c.vm('fresh');
      return /disk error/.test(vm.reason) && vm;
    });
    t.equal(paused.phase, 'paused');
    await d.goesOn('beside');
  },
);

await t.test('enlarged by a drive: resumed, it goes on', async (t) => {
  const boot = d.bootOf('solid');
  await c.must('PATCH', 'pools/fast', { addDrives: [{ node: 'n1', drive: 'drive2' }] });
  await waitFor('there is room', async () => {
    const u = await use();
    return u.ok && (u.thin?.dataPct ?? 100) < 60;
  });
  const { op } = await c.must<{ op: Op }>('POST', 'vms/fresh/actions/resume');
  t.equal((await c.opEnd(op)).state, 'done');
  await d.goesOn('fresh');
  await d.goesOn('solid');
  t.equal(d.bootOf('solid'), boot);
  t.same(d.violations(), []);
});

await t.test('what is discarded is given back, down to the drive', async (t) => {
  const held = async (): Promise<number> =>
    Number(await lab.sh('n1', `lvs --noheadings --nosuffix -o data_percent ${group}/pool`));
  const before = await held();
  await lab.sh('n1', `blkdiscard /dev/${group}/filler`);
  t.ok((await held()) < before / 2, `${before} % before, ${await held()} % now`);
  await lab.sh('n1', `lvremove -qy ${group}/filler`);
});

await t.test('after a loss of power its volumes appear again, with all that was flushed', async (t) => {
  const boot = d.bootOf('solid');
  await lab.kill('n1');
  await lab.boot('n1');
  await d.bootsAfter('solid', boot);
  await d.allThere();
  t.ok((await use()).ok);
  t.same(d.violations(), []);
});

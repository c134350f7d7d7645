import t, { type Test } from 'tap';
import type { Op } from '../../../core/domain/op.js';
import { Drills } from '../../lab/drill.js';
import { waitFor } from '../../lab/harness.js';

/**
 * Disks of a VM that runs, on real kernels with DRBD and thin LVM: it gets a second copy and loses it, moves between pools, gets
 * disks that grow and go; and a clone. Its guest counts on its first disk throughout, and what it was told of is judged outside.
 */

const d = await Drills.up({ kind: 'metal', id: 'rigdisk', nodes: 2 });
const { c, lab } = d;
t.teardown(() => d.down());
await d.poolOfDrives();

const MiB = 2 ** 20;
const vm = 'web';
interface Seen {
  readonly disks: { readonly id: string; readonly name: string; readonly format: string }[];
}

const done = async (r: { op: Op }, step?: RegExp): Promise<void> => {
  const op = await c.opEnd(r.op, 300_000);
  if (op.state !== 'done' || step?.test(op.step) === false)
    throw new Error(`${op.state}: ${op.step} ${JSON.stringify(op.error)}`);
};
const change = (method: string, path: string, body?: object): Promise<void> =>
  c.must<{ op: Op }>(method, path, body).then((r) => done(r));
const edit = (body: object): Promise<void> => change('PATCH', `vms/${vm}`, body);
const move = (body: object): Promise<void> => change('POST', `vms/${vm}/disks/root/move`, body);
const disk = async (name: string): Promise<Seen['disks'][number]> => {
  const { body } = await c.get<Seen>(`vms/${vm}`);
  const found = body.disks.find((x) => x.name === name);
  if (found === undefined) throw new Error(`no disk ${name}`);
  return found;
};
/** Thin volumes of disks on a node. */
const volumes = async (node: string): Promise<number> =>
  Number(await lab.sh(node, "lvs --noheadings -o lv_name | grep -c '^ *d-' || true"));
const pairs = (node: string): Promise<string> =>
  lab.sh(node, 'drbdsetup events2 --now | grep -c "exists device" || true');
const blocks = (node: string): Promise<string> => c.virsh(node, 'domblklist', d.id(vm));
/** What its machine calls a disk. */
const target = async (node: string, name: RegExp): Promise<string> =>
  (await blocks(node))
    .split('\n')
    .map((line) => line.trim().split(/ +/)[0] ?? '')
    .find((dev) => name.test(dev)) ?? '';
/** What has to be true after each change: the same boot counts on, and nothing was lost. */
let red = false;
const scene = (name: string, act: (t: Test) => Promise<void>, sameBoot = true) =>
  t.test(name, { skip: red ? 'one before it failed' : false }, async (t) => {
    const boot = d.ids.has(vm) && sameBoot ? d.bootOf(vm) : null;
    const began = Date.now();
    try {
      await act(t);
      await d.goesOn(vm);
      if (boot !== null) t.equal(d.bootOf(vm), boot, 'the same boot');
    } catch (e) {
      red = true;
      await d.tell(t);
      throw e;
    } finally {
      t.comment(`${Math.round((Date.now() - began) / 1000)} s`);
      t.same(d.violations(), [], 'no VM twice, no flushed write lost');
    }
  });

await scene('a guest that counts on a disk with one copy', async () => {
  await d.guest(vm, 'n1', { disks: [{ name: 'root', pool: 'fast', image: 'bare', mode: 'full' }] });
});

await scene('its disk gets a copy on a second node while it writes', async (t) => {
  await move({ replicas: 2 });
  await d.inSync(vm);
  t.match(await blocks('n1'), /vda +\/dev\/drbd1\d+/);
  await waitFor('the old volume is gone', async () => (await volumes('n1')) === 1);
  t.equal(await volumes('n2'), 1);
});

await scene('a second disk is added to the pair, grows, is detached and attached', async (t) => {
  await edit({
    addDisks: [{ name: 'more', pool: 'fast', format: 'raw', sizeBytes: 64 * MiB, replicas: 2, bus: 'scsi' }],
  });
  t.match(await blocks('n1'), /sd[a-z]+ +\/dev\/drbd1\d+/);
  await d.inSync(vm);
  t.equal(await volumes('n2'), 2);
  await edit({ growDisks: [{ disk: 'more', sizeBytes: 160 * MiB }] });
  const seen = Number(
    /Capacity: +(\d+)/.exec(await c.virsh('n1', 'domblkinfo', d.id(vm), await target('n1', /sd/)))?.[1],
  );
  t.ok(seen >= 160 * MiB && seen < 168 * MiB, `its machine sees ${seen} bytes`);
  await d.inSync(vm);
  await edit({ detachDisks: ['more'] });
  t.notMatch(await blocks('n1'), / sd[a-z]+ +\/dev\/drbd/);
  t.equal(await volumes('n1'), 2, 'its data stay');
  await edit({ attachDisks: ['more'] });
  t.match(await blocks('n1'), /sd[a-z]+ +\/dev\/drbd1\d+/);
});

await scene('the second disk is removed while it runs, on both nodes', async (t) => {
  await edit({ removeDisks: ['more'] });
  t.notMatch(await blocks('n1'), / sd[a-z]+ +\/dev\/drbd/);
  for (const n of d.nodes)
    await waitFor(
      `its copy on ${n} is gone`,
      async () => (await volumes(n)) === 1 && (await pairs(n)) === '1',
    );
  await d.inSync(vm);
});

await scene(
  'power goes when there is room below and the disk is not enlarged: the copy opens again',
  async (t) => {
    // As after the standby's agent has made room, and before the owner's has enlarged the pair.
    const volume = await lab.sh('n2', "lvs --noheadings -o lv_path | grep '/d-' | tr -d ' '");
    await lab.sh('n2', `lvextend -q -L +4M ${volume}`);
    await d.inSync(vm);
    await lab.kill('n2');
    await waitFor('the ledger calls it behind', async () => (await d.own(vm, 'n1')).sync === 'stale');
    await d.back('n2');
    await d.inSync(vm);
    t.equal(await pairs('n2'), '1');
  },
);

await scene('its disk has one copy again, where it runs', async (t) => {
  await move({ replicas: 1 });
  for (const [n, left] of [
    ['n1', 1],
    ['n2', 0],
  ] as const)
    await waitFor(
      `${left} volumes are on ${n}`,
      async () => (await volumes(n)) === left && (await pairs(n)) === '0',
    );
  t.match(await blocks('n1'), /vda +\/dev\/flotilla-/);
});

await scene('it moves to a pool of files and back, and grows', async (t) => {
  await move({ pool: 'shared', format: 'qcow2' });
  t.match(await blocks('n1'), /vda +\/srv\/shared\/disks\//);
  await waitFor('the old volume is gone', async () => (await volumes('n1')) === 0);
  await move({ pool: 'fast' });
  t.match(await blocks('n1'), /vda +\/dev\/flotilla-/);
  await waitFor('its record says so', async () => (await disk('root')).format === 'raw');
  await edit({ growDisks: [{ disk: 'root', sizeBytes: 64 * MiB }] });
  t.match(await c.virsh('n1', 'domblkinfo', d.id(vm), 'vda'), /Capacity: +67108864/);
});

await scene('a clone of it, from a snapshot of while it ran, begins as it was', async (t) => {
  const before = Math.max(
    ...d.ear
      .of(vm)
      .filter((w) => w.kind === 'count')
      .map((w) => w.n),
  );
  await change('POST', `vms/${vm}/snapshots`, { name: 'x' });
  const after = Math.max(
    ...d.ear
      .of(vm)
      .filter((w) => w.kind === 'count')
      .map((w) => w.n),
  );
  const clone = await c.must<{ op: Op; vm: { id: string } }>('POST', 'clones', {
    name: 'twin',
    vm,
    snapshot: 'x',
    power: 'running',
  });
  d.ear.names.set(clone.vm.id, 'twin');
  await done(clone);
  await waitFor('it counts', () => d.ear.of('twin').some((w) => w.kind === 'count'), { limitMs: 120_000 });
  const found = d.ear.of('twin').find((w) => w.kind === 'found')?.n ?? -1;
  // What was told is on its disk; one more may have been written that had not been told yet.
  t.ok(found >= before && found <= after + 1, `${found}, of ${before} to ${after}`);
  await change('DELETE', 'vms/twin?force=true');
  await c.must('DELETE', `vms/${vm}/snapshots/x`);
  await waitFor(
    'nothing but its disk is left',
    async () => (await lab.sh('n1', "lvs --noheadings -o lv_name | grep -cE '^ *[ds]-'")) === '1',
  );
});

await scene(
  'with two copies again, of which its machine sees a part, it migrates there and back',
  async (t) => {
    await move({ replicas: 2 });
    await d.inSync(vm);
    for (const node of ['n2', 'n1']) {
      await change('POST', `vms/${vm}/migrate`, { node });
      t.equal(await d.ownerOf(vm), node);
      await d.goesOn(vm);
      await d.inSync(vm);
    }
  },
);

await scene(
  'its owner loses power: it comes back on the other node',
  async (t) => {
    await edit({ ha: { enabled: true, restartsPerHourMax: 100 } });
    await d.untilProtected(vm);
    const [boot, ops] = [d.bootOf(vm), await d.failoverOps(vm)];
    await lab.kill('n1');
    const line = await d.takenOver(vm, ops);
    t.comment(JSON.stringify(line.phasesMs));
    await d.bootsAfter(vm, boot);
    t.equal(await d.ownerOf(vm), 'n2');
    t.match(await blocks('n2'), /vda +\/dev\/drbd1\d+/);
    await d.back('n1');
    await d.inSync(vm);
  },
  false,
);

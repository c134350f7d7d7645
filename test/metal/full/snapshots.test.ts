import t from 'tap';
import type { Op } from '../../../core/domain/op.js';
import { Drills, twoCopies } from '../../lab/drill.js';
import { waitFor } from '../../lab/harness.js';

/** Snapshots of thin volumes on a real kernel, of a guest that counts on its disk: alone, and below DRBD's two copies. */

const d = await Drills.up({ kind: 'metal', id: 'rigsnap', nodes: 2 });
const { c, lab } = d;
t.teardown(() => d.down());
await d.poolOfDrives();

const done = async (r: { op: Op }): Promise<Op> => {
  const op = await c.opEnd(r.op, 300_000);
  if (op.state !== 'done') throw new Error(JSON.stringify(op.error));
  return op;
};
const act = (name: string, action: string): Promise<Op> =>
  c.must<{ op: Op }>('POST', `vms/${name}/actions/${action}`).then(done);
const volumes = (node: string): Promise<string> =>
  lab.sh(node, "lvs --noheadings -o lv_name | grep -c '^ *s-' || true");
const counted = (name: string): number =>
  Math.max(
    0,
    ...d.ear
      .of(name)
      .filter((w) => w.kind === 'count')
      .map((w) => w.n),
  );

for (const [name, disks] of [
  ['alone', [{ name: 'root', pool: 'fast', image: 'bare', mode: 'full' }]],
  ['twice', twoCopies],
] as const) {
  await t.test(`${name}: snapshotted while it counts, and back there`, async (t) => {
    await d.guest(name, 'n1', { disks });
    const before = counted(name);
    await done(await c.must('POST', `vms/${name}/snapshots`, { name: 'x' }));
    const after = counted(name);
    t.equal(await volumes('n1'), '1');
    t.equal(await volumes('n2'), '0', 'on the owner’s side alone');
    await d.goesOn(name);
    await act(name, 'force-stop');
    await done(await c.must('POST', `vms/${name}/snapshots/x/revert`, {}));
    const boot = d.bootOf(name);
    await act(name, 'start');
    await d.bootsAfter(name, boot);
    const found = d.ear.of(name).findLast((w) => w.kind === 'found')?.n ?? -1;
    // What it told is on its disk; it may have written one more that it had not told yet.
    t.ok(found >= before && found <= after + 1, `${found}, of ${before} to ${after}`);
    if (name === 'twice')
      await waitFor('both copies are the same', async () => {
        const { body } = await c.get<{ own: { sync: string } }>(`vms/${name}`);
        return body.own.sync === 'ok';
      });
    await c.must('DELETE', `vms/${name}/snapshots/x`);
    await waitFor('its volume is gone', async () => (await volumes('n1')) === '0');
    await done(await c.must('DELETE', `vms/${name}?force=true`));
  });
}

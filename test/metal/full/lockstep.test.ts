import t from 'tap';
import { Drills } from '../../lab/drill.js';
import { waitFor } from '../../lab/harness.js';

/**
 * A VM in lockstep on thin volumes, each machine with a kernel and networks of its own: the one it runs on loses its power, and
 * after that the other one.
 */

const vm = 'steady';
const d = await Drills.up({ kind: 'metal', id: 'riglock', nodes: 2 });
t.teardown(() => d.down());
const { lab } = d;
const volumes = (node: string): Promise<string> =>
  lab.sh(node, "lvs --noheadings -o lv_name | grep -c '^ *d-' || true");

await d.poolOfDrives();
await d.guest(vm, 'n1', {
  disks: [{ name: 'root', pool: 'fast', image: 'bare', mode: 'full' }],
  ha: { enabled: true, lockstep: true, restartsPerHourMax: 100 },
});
const boot = d.bootOf(vm);

for (const round of [1, 2]) {
  await t.test(`${round}: its machine loses power, and it goes on with its twin`, async (t) => {
    try {
      const twin = await d.untilProtected(vm, 300_000);
      const owner = await d.ownerOf(vm);
      t.not(owner, twin);
      t.equal(await volumes(owner), '1');
      t.equal(await volumes(twin), '1', 'a thin volume on each machine');
      await d.goesOn(vm);
      await lab.kill(owner);
      await waitFor('its twin’s machine owns it', async () => (await d.ownerOf(vm)) === twin);
      await d.goesOn(vm);
      t.equal(d.bootOf(vm), boot, 'the same boot');
      await lab.boot(owner);
      await d.allThere();
      t.same(d.violations(), []);
    } catch (e) {
      await d.tell(t);
      throw e;
    }
  });
}

import t from 'tap';
import { cutOffAsItComesBack } from './cluster/mutations.js';
import { World } from './cluster/world.js';
import { migrations } from './migrations.js';

await migrations(false);

await t.test('as a VM comes back, what a pool still says of its last stay proves nothing', async (t) => {
  const w = new World({ seed: 11, nodes: 5, log: true, locks: null });
  w.boot();
  await cutOffAsItComesBack(w);
  await w.until('it rests', () => w.checks.resting(), 60_000);
  w.checks.atRest();
  if (!t.same(w.checks.violations, [])) t.comment(w.lines.slice(-60).join('\n'));
  t.equal(w.node('n4').host.libvirt.starts.length, 1, 'the copy went on: nothing was started anew');
  w.end();
});

import t from 'tap';
import { World } from './cluster/world.js';

/**
 * Between the transaction of a start and the machine itself lies all that libvirt takes: seconds, on a bad night a
 * minute. Meanwhile the node may lose its lease, its VM, and get a lease again.
 */
for (const startMs of [4_000, 9_000, 12_000, 20_000, 30_000]) {
  await t.test(`a machine that comes to life ${startMs / 1000} s after its start was decided`, async (t) => {
    const w = new World({ seed: 7, nodes: 3, log: true });
    w.boot();
    const other = w.createVm('other', 'n1');
    await w.until('the first VM runs', () => w.runsOn(other).length === 1);
    const web = w.createVm('web', 'n1', { power: 'stopped' });
    await w.pass(3_000);
    w.node('n1').host.libvirt.startMs = () => startMs;
    w.action('start', web);
    await w.until('its start is decided', () => w.own(web)?.state === 'running');
    // Nobody chose a standby yet, so any node takes it.
    w.net.isolate('n1');
    await w.until('another node takes it', () => w.own(web)?.owner !== 'n1', 30_000);
    t.ok(
      w.checks.seen.some((s) => s.what.startsWith('fail-over')),
      'it was taken over meanwhile',
    );
    w.net.heal();
    await w.pass(60_000);
    w.checks.atRest();
    if (!t.same(w.checks.violations, [], 'no promise is broken')) t.comment(w.lines.join('\n'));
  });
}

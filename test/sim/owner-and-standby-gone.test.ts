import t from 'tap';
import { World } from './cluster/world.js';

/** Safety 5 and 15: with the standby gone too, whoever can reach the disks takes a VM; many gone: one after the other. */
await t.test('VMs that start together are spread over standbys', async (t) => {
  const w = new World({ seed: 1, nodes: 5 });
  w.boot();
  const vms = ['a', 'b', 'c', 'd'].map((name) => w.createVm(name, 'n5'));
  await w.until('each has a standby', () => vms.every((v) => (w.own(v)?.standby ?? null) !== null));
  const standbys = vms.map((v) => w.own(v)?.standby);
  t.ok(new Set(standbys).size >= 3, standbys.join(' '));
});

for (const seed of [1, 2]) {
  await t.test(`owner and standby are both cut off, seed ${seed}`, async (t) => {
    const w = new World({ seed, nodes: 5, log: true });
    w.boot();
    const vms = ['a', 'b', 'c', 'd'].map((name) => w.createVm(name, 'n5'));
    await w.until('protected', () =>
      vms.every((v) => w.own(v)?.fence.armed === true && (w.own(v)?.standby ?? null) !== null),
    );
    const gone = ['n5', w.own(vms[0] ?? '')?.standby ?? ''];
    for (const n of gone) w.net.isolate(n);
    const elsewhere = (v: string): boolean =>
      !gone.includes(w.own(v)?.owner ?? '') && w.runsOn(v).some((n) => !gone.includes(n));
    await w.until('all run elsewhere', () => vms.every(elsewhere));
    const takes = w.checks.seen.filter((s) => s.what.startsWith('fail-over'));
    t.ok(
      takes.some((s) => s.what === 'fail-over-any'),
      'not only standbys took',
    );
    t.equal(takes.length, vms.length, 'each was taken once');
    w.net.heal();
    await w.pass(60_000);
    w.checks.atRest();
    if (!t.same(w.checks.violations, [], 'no promise is broken')) t.comment(w.lines.slice(-80).join('\n'));
  });
}

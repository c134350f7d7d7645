import t from 'tap';
import { rollingArgs } from '../../../core/domain/rolling.js';
import type { Op } from '../../../core/domain/op.js';
import { Drills } from '../drill.js';
import { waitFor } from '../harness.js';

/** Three real nodes restart one after the other under a VM that runs: its guest notices nothing. */

const d = await Drills.up({ id: 'flroll', net: '10.64.0', guestNet: '10.64.100', timing: 'lab' });
const { c } = d;
t.teardown(() => d.down());

/** Of the machine: another one after a restart. */
const machineBoots = (): Promise<string[]> =>
  Promise.all(d.nodes.map((n) => d.lab.sh(n, 'cat /proc/sys/kernel/random/boot_id')));

await t.test(
  'three nodes restart in turn; a VM is moved while it runs, and goes on in the same boot',
  async (t) => {
    await d.witness('web', 'n2');
    const before = await machineBoots();
    const boot = d.bootOf('web');
    // A controller on each node, since the one that is asked restarts, too.
    for (const n of d.nodes) await d.lab.sh(n, 'systemctl enable --now flotilla-controller');
    const said = await c.must<{ groups: { nodes: string[] }[]; blocked: unknown[] }>('GET', 'rolling');
    t.same(said.groups.flatMap((g) => g.nodes).sort(), d.nodes);
    const { op } = await c.must<{ op: Op }>('POST', 'rolling', { work: 'reboot', bringBack: true });
    // The one with a VM on it goes last, and until then it drives: its agent dies in the middle.
    await waitFor('one is emptied', async () => {
      const { body } = await c.get<Op>(`ops/${op.id}`);
      return rollingArgs(body)?.nodes.some((n) => n.state !== 'waiting') ?? false;
    });
    await d.signal('n2', await d.pidOf('n2', 'flotilla-agent'), 'KILL');
    const end = await c.opEnd(op, 1_500_000);
    t.match(end, { state: 'done', error: null, step: '3 of 3 nodes are done' }, JSON.stringify(end));
    const after = await machineBoots();
    for (const [i, n] of d.nodes.entries()) t.not(after[i], before[i], `${n} has restarted`);
    await d.goesOn('web');
    t.equal(d.bootOf('web'), boot, 'the same boot of the guest');
    t.equal(await d.ownerOf('web'), 'n2', 'it came back');
    t.same(d.violations(), []);
    const { body } = await c.get<{ items: { record: { desired: string } }[] }>('nodes');
    t.same(
      body.items.map((n) => n.record.desired),
      ['active', 'active', 'active'],
    );
    t.comment(`took ${Math.round((end.updatedMs - end.createdMs) / 1000)} s`);
  },
);

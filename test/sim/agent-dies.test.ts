import t from 'tap';
import { SimNode, type Death } from './sim-node.js';

/**
 * The agent dies at each of its acts in turn, before and after the act took effect, and systemd starts it again.
 * Whatever it was doing is found again, and done once. @see DESIGN P6
 */

async function life(death: Death | null): Promise<{ node: SimNode; acts: number; died: boolean }> {
  const n = new SimNode();
  n.boot(death);
  const until = n.untilOutlived.bind(n);
  const vm = n.createVm();
  await until(
    'running',
    () => n.said.get(vm.id)?.phase === 'running' && n.host.domains.get(vm.id)?.active === true,
  );
  await until('created', () => n.op(vm.op).state === 'done');
  const reset = n.action('reset', vm.id);
  await until('reset', () => n.op(reset).state === 'done');
  const stop = n.action('stop', vm.id);
  await until('stopped', () => n.op(stop).state === 'done' && n.own(vm.id)?.state === 'stopped');
  const start = n.action('start', vm.id);
  await until('started', () => n.op(start).state === 'done' && n.host.domains.get(vm.id)?.active === true);
  const before = n.host.starts.length;
  const acts = n.acts;
  await n.clock.advance(30_000);
  if (n.host.starts.length !== before) throw new Error('started again for no reason');
  const del = n.ask('vm.delete', vm.id);
  await until('deleted', () => n.op(del).state === 'done');
  return { node: n, acts, died: n.deaths > 0 };
}

await t.test("the agent dies at each act of a VM's life", async (t) => {
  const whole = await life(null);
  await whole.node.stop();
  t.ok(whole.acts > 10, `${whole.acts} acts`);
  for (let at = 0; at < whole.acts; at++) {
    for (const when of ['before', 'after'] as const) {
      const { node, died } = await life({ at, when });
      const name = `${when} act ${at}`;
      t.ok(died, `${name}: it died`);
      // Two starts were asked for; one may be repeated when the agent died around it, never more.
      t.ok(node.host.starts.length <= 3, `${name}: ${node.host.starts.length} starts`);
      t.ok(node.host.resets <= 1, `${name}: ${node.host.resets} resets`);
      t.equal(node.files.disks.size, 0, `${name}: no file is left`);
      t.equal(node.host.domains.size, 0, `${name}: no domain is left`);
      t.same(
        node.ledger.peekAll('/flotilla/').filter((e) => /\/(vm|disk|name)\//.test(e.key)),
        [],
        `${name}: no key is left`,
      );
      await node.stop();
    }
  }
});

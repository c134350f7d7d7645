import { randomUUID } from 'node:crypto';
import t from 'tap';
import { LibvirtError } from '../../agent/libvirt/hypervisor.js';
import { SimNode, type Death } from './sim-node.js';

/** A VM that runs, with a guest agent that answers. */
async function running(n: SimNode, at: { thin?: boolean } = {}): Promise<{ id: string; disk: string }> {
  const vm = n.createVm({}, at);
  await n.until('running', () => n.said.get(vm.id)?.phase === 'running');
  const domain = n.host.domains.get(vm.id);
  if (domain === undefined) throw new Error('no machine');
  domain.agent = true;
  n.host.emit({ type: 'agent-lifecycle', uuid: vm.id, name: vm.id, state: 'connected', reason: 'channel' });
  await n.until('its agent is seen', () => n.said.get(vm.id)?.guestAgent === true);
  return vm;
}

/** Nothing of the guest is held, and it runs. */
function free(n: SimNode, vm: string): boolean {
  return (
    n.host.frozen.size === 0 && n.host.mirrors.size === 0 && n.host.domains.get(vm)?.state.state === 'running'
  );
}

const stateOf = (n: SimNode, vm: string, id: string): string | undefined =>
  n.snapshotsOf(vm).find((x) => x.id === id)?.state;

for (const thin of [true, false]) {
  const kind = thin ? 'thin' : 'local';
  await t.test(
    `of a VM that runs, on a ${kind} pool: one moment, file systems held, then all goes on`,
    async (t) => {
      const n = new SimNode();
      n.boot();
      const vm = await running(n, { thin });
      const seen: string[] = [];
      const look = (id: string): void => {
        seen.push(`${n.host.frozen.has(id)} ${n.host.domains.get(id)?.state.state}`);
      };
      n.files.beforeSnapshot = look;
      n.host.beforeCut = look;
      const x = n.snapshot(vm.id, 'first');
      await n.until('taken', () => n.op(x.op).state === 'done');
      t.match(n.snapshotsOf(vm.id), [{ state: 'ready', consistency: 'filesystem', node: 'n1' }]);
      t.match(n.op(x.op).step, 'snapshot "first" is taken: 1 GiB');
      t.same(seen, ['true paused'], 'cut while the guest held still and the machine stood');
      await n.until('it goes on', () => free(n, vm.id));
      t.equal(n.files.snapshots.size, 1);
      await n.stop();
    },
  );
}

await t.test(
  'without a guest agent: as after a power loss; asked for more, it is refused with words',
  async (t) => {
    const n = new SimNode();
    n.boot();
    const vm = n.createVm({}, { thin: true });
    await n.until('running', () => n.said.get(vm.id)?.phase === 'running');
    const a = n.snapshot(vm.id, 'a');
    await n.until('taken', () => n.op(a.op).state === 'done');
    const b = n.snapshot(vm.id, 'b', 'filesystem');
    await n.until('refused', () => n.op(b.op).state === 'failed');
    t.match(n.op(b.op).error, { code: 'guest-agent-unavailable', hint: /qemu-guest-agent/ });
    t.match(
      n.snapshotsOf(vm.id).sort((x, y) => (x.name < y.name ? -1 : 1)),
      [
        { name: 'a', state: 'ready', consistency: 'crash' },
        { name: 'b', state: 'failed', error: { code: 'guest-agent-unavailable' } },
      ],
    );
    t.ok(free(n, vm.id));
    t.equal(n.files.snapshots.size, 1, 'nothing is left of the one that failed');
    await n.stop();
  },
);

await t.test('a guest that falls silent while it is held is let go as soon as it answers', async (t) => {
  const n = new SimNode();
  n.boot();
  const vm = await running(n, { thin: true });
  n.files.beforeSnapshot = () => {
    n.host.guestAnswers = false;
    throw new Error('no drive');
  };
  const x = n.snapshot(vm.id, 'x');
  await n.until('cut', () => !n.host.guestAnswers);
  await n.clock.advance(60_000);
  t.equal(n.host.domains.get(vm.id)?.state.state, 'running', 'the machine goes on at once');
  t.ok(n.host.frozen.has(vm.id));
  t.not(n.op(x.op).state, 'failed', 'it is not over while the guest is held');
  n.host.guestAnswers = true;
  await n.until('let go', () => n.host.frozen.size === 0);
  await n.until('failed', () => n.op(x.op).state === 'failed');
  await n.stop();
});

await t.test('a mirror that cannot be made leaves the disk as it was', async (t) => {
  const n = new SimNode();
  n.boot();
  const vm = await running(n);
  n.host.beforeCut = () => {
    throw new LibvirtError('input/output error', { code: 'refused', outcome: 'refused' });
  };
  const x = n.snapshot(vm.id, 'x');
  await n.until('failed', () => n.op(x.op).state === 'failed');
  t.match(n.op(x.op).error, { code: 'hypervisor-error' });
  n.host.beforeCut = () => undefined;
  t.match(n.snapshotsOf(vm.id), [{ state: 'failed' }]);
  t.equal(n.host.frozen.size, 0);
  t.equal(n.said.get(vm.id)?.phase, 'running');
  await n.stop();
});

/** Running, snapshotted, off, back to the snapshot with one taken before, running; then both are deleted. */
async function life(thin: boolean, death: Death | null): Promise<{ n: SimNode; acts: number; vm: string }> {
  const n = new SimNode();
  n.boot();
  const vm = await running(n, { thin });
  n.acts = 0;
  n.death = death;
  const until = n.untilOutlived.bind(n);
  const first = n.snapshot(vm.id, 'first');
  await until('taken', () => n.op(first.op).state === 'done');
  const { takenMs, disks } = n.snapshotsOf(vm.id)[0] ?? {};
  const cutMs = n.files.cutMs.get(disks?.[0]?.id ?? '');
  if (thin && cutMs !== takenMs) throw new Error(`its disk is as of ${cutMs}, it says ${takenMs}`);
  await until('it goes on', () => free(n, vm.id));
  const stop = n.action('stop', vm.id);
  await until('off', () => n.op(stop).state === 'done');
  const before = n.wanted(vm.id, 'before');
  const back = n.ask('vm.revert', vm.id, { node: n.node, args: { snapshot: first.id, before } });
  await until('reverted', () => n.op(back).state === 'done');
  await until('one disk', () => n.disks(vm.id).length === 1);
  const start = n.action('start', vm.id);
  await until('runs again', () => n.op(start).state === 'done');
  const acts = n.acts;
  for (const x of n.snapshotsOf(vm.id)) n.deleteSnapshot(x);
  await until('gone', () => n.snapshotsOf(vm.id).length === 0);
  return { n, acts, vm: vm.id };
}

for (const thin of [true, false]) {
  await t.test(`the agent dies at each act of a ${thin ? 'thin' : 'local'} snapshot's life`, async (t) => {
    const whole = await life(thin, null);
    t.ok(whole.acts > 15, `${whole.acts} acts`);
    t.match(whole.n.disks(whole.vm), [{ state: 'ready', source: { kind: 'snapshot' } }]);
    await whole.n.stop();
    for (let at = 0; at < whole.acts; at++) {
      // What differs between the pools is what is done, not how it is found again.
      for (const when of thin ? (['before', 'after'] as const) : (['after'] as const)) {
        const { n, vm } = await life(thin, { at, when });
        const name = `${when} act ${at}`;
        t.ok(free(n, vm), `${name}: nothing is held`);
        t.equal(n.files.snapshots.size, 0, `${name}: no volume is left`);
        t.same(
          [...n.files.disks.keys()],
          n.disks(vm).map((d) => d.id),
          `${name}: one disk`,
        );
        await n.stop();
      }
    }
  });
}

await t.test(
  'a VM takes its snapshots along when it is deleted, and a revert of one that runs is refused',
  async (t) => {
    const n = new SimNode();
    n.boot();
    const vm = await running(n, { thin: true });
    const x = n.snapshot(vm.id, 'x');
    await n.until('taken', () => n.op(x.op).state === 'done');
    const back = n.ask('vm.revert', vm.id, { node: n.node, args: { snapshot: x.id } });
    await n.until('refused', () => n.op(back).state === 'failed');
    t.match(n.op(back).error, { code: 'wrong-state', message: /it is not off/ });
    t.equal(stateOf(n, vm.id, x.id), 'ready');
    const del = n.ask('vm.delete', vm.id);
    await n.until('deleted', () => n.op(del).state === 'done');
    await n.until('its snapshots too', () => n.snapshotsOf(vm.id).length === 0);
    t.equal(n.files.snapshots.size, 0);
    await n.stop();
  },
);

await t.test('a revert whose VM was deleted meanwhile is ended', async (t) => {
  const n = new SimNode();
  const gone = randomUUID();
  const args = { snapshot: randomUUID(), generation: 7 };
  const op = n.ask('vm.revert', gone, { node: n.node, args });
  n.boot();
  await n.until('ended', () => n.op(op).state === 'cancelled');
  t.match(n.op(op).step, /deleted/);
  await n.stop();
});

await t.test('a schedule: taken when due, once for what was missed, kept as long as it says', async (t) => {
  const n = new SimNode();
  n.clock.wallOffsetMs = Date.UTC(2026, 10, 30, 8);
  n.boot();
  const vm = await running(n, { thin: true });
  n.edit(vm.id, { snapshots: { hourly: 2, daily: 1, weekly: 0 } });
  const ready = (): string[] =>
    n
      .snapshotsOf(vm.id)
      .filter((x) => x.state === 'ready')
      .sort((a, b) => a.takenMs - b.takenMs)
      .map((x) => x.keptFor.join());
  await n.until('the first', () => ready().length === 1);
  t.same(ready(), ['hourly,daily']);
  t.equal(n.files.snapshots.size, 1);
  const taken = (): number => n.files.log.filter((x) => x.startsWith('snapshot')).length;
  await n.clock.advance(3 * 3_600_000);
  await n.until('three more, and what is too many is gone', () => taken() === 4 && ready().length === 3);
  await n.until('its volume too', () => n.files.snapshots.size === 3);
  t.same(ready(), ['hourly,daily', 'hourly', 'hourly'], 'the first as that of the day');
  await n.stop();
  // Nobody takes any for three hours.
  await n.clock.advance(3 * 3_600_000);
  n.boot();
  await n.until('one for those missed', () => taken() === 5);
  await n.clock.advance(60_000);
  t.equal(taken(), 5);
  n.edit(vm.id, { snapshots: undefined });
  const left = ready().length;
  await n.clock.advance(4_000_000);
  t.equal(ready().length, left, 'ended: nothing is taken, nothing deleted');
  await n.stop();
});

import t from 'tap';
import { FlotillaError } from '../../core/domain/error.js';
import { recoveryKey } from '../../core/wire/ledger-keys.js';
import { SimNode } from './sim-node.js';

/** Runs a scenario on a fresh node with an agent up, and ends it. */
async function scenario(name: string, body: (n: SimNode, t: Tap.Test) => Promise<void>): Promise<void> {
  await t.test(name, async (t) => {
    const n = new SimNode();
    n.boot();
    t.teardown(() => n.stop());
    await body(n, t as unknown as Tap.Test);
  });
}
// eslint-disable-next-line @typescript-eslint/no-namespace
declare namespace Tap {
  type Test = typeof t;
}

const running = (n: SimNode, id: string) => () =>
  n.said.get(id)?.phase === 'running' && n.host.domains.get(id)?.active === true;
const stopped = (n: SimNode, id: string) => () =>
  n.own(id)?.state === 'stopped' && n.host.domains.get(id)?.active !== true;
const finished = (n: SimNode, op: string) => () => ['done', 'failed', 'cancelled'].includes(n.op(op).state);

await scenario('a created VM gets its disk, is started once, and its op is done', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  await n.until('op done', finished(n, vm.op));
  t.equal(n.op(vm.op).state, 'done');
  t.same(n.files.log, ['make root']);
  t.equal(n.host.starts.length, 1);
  t.equal(n.own(vm.id)?.gen, 2);
});

await scenario('a stop asks the guest, and the ledger says stopped only after it is down', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  const op = n.action('stop', vm.id);
  await n.until('stop asked', () => n.said.get(vm.id)?.phase === 'stopping');
  t.equal(n.own(vm.id)?.state, 'running');
  await n.until('stopped', stopped(n, vm.id));
  await n.until('op done', finished(n, op));
  t.equal(n.op(op).state, 'done');
  t.equal(n.host.starts.length, 1, 'it is not started again');
});

await scenario(
  'a VM held off at its node goes off in the dark too, and starts only let go and with the ledger',
  async (n, t) => {
    const vm = n.createVm();
    await n.until('running', running(n, vm.id));
    n.ledger.quorum = false;
    n.holds.set(vm.id, { by: 'anna', atMs: 0 });
    n.loop?.wake();
    await n.until('off', () => n.host.domains.get(vm.id)?.active !== true);
    n.ledger.quorum = true;
    await n.until('the ledger knows', () => n.own(vm.id)?.state === 'stopped');
    await n.clock.advance(30_000);
    t.equal(n.host.starts.length, 1, 'wanted as running, and held');
    t.match(n.said.get(vm.id), {
      phase: 'stopped',
      reason: /^held off at n1 by anna since .*until it is let go/,
    });
    n.ledger.quorum = false;
    n.holds.delete(vm.id);
    n.loop?.wake();
    await n.clock.advance(30_000);
    t.equal(n.host.starts.length, 1, 'letting go starts nothing without the ledger');
    n.ledger.quorum = true;
    await n.until('running', running(n, vm.id));
    t.equal(n.host.starts.length, 2);
  },
);

await scenario('a deaf guest is forced off after its time-out, and the event says so', async (n, t) => {
  n.host.guestStopMs = null;
  const vm = n.createVm({ stopTimeoutS: 20 });
  await n.until('running', running(n, vm.id));
  const began = n.clock.nowMs();
  n.action('stop', vm.id);
  await n.until('stopped', stopped(n, vm.id));
  t.ok(n.clock.nowMs() - began >= 20_000);
  t.match(n.events.map((e) => e.text).join('\n'), /did not shut down within 20 s/);
});

await scenario(
  'a guest that shuts itself down stays off; one whose QEMU dies is started again',
  async (n, t) => {
    const quiet = n.createVm();
    const loud = n.createVm();
    await n.until('running', () => running(n, quiet.id)() && running(n, loud.id)());
    n.host.die(quiet.id, 'shutdown');
    n.host.die(loud.id, 'crashed');
    await n.until(
      'one off, one back',
      () => stopped(n, quiet.id)() && n.host.starts.length === 3 && running(n, loud.id)(),
    );
    t.equal(n.spec(quiet.id)?.power, 'stopped');
    t.equal(n.spec(loud.id)?.power, 'running');
    t.equal(n.said.get(quiet.id)?.reason, 'the guest shut itself down');
  },
);

await scenario('a start asked while the guest still shuts down starts it anew', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  n.action('stop', vm.id);
  await n.until('stopping', () => n.said.get(vm.id)?.phase === 'stopping');
  const op = n.action('start', vm.id);
  await n.until('off', () => n.host.starts.length === 2 && running(n, vm.id)());
  await n.until('op done', finished(n, op));
  t.equal(n.op(op).state, 'done');
  t.equal(n.spec(vm.id)?.power, 'running');
});

await scenario('a machine that keeps dying stays off after five restarts within the hour', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  for (let i = 0; i < 5; i++) {
    n.host.die(vm.id, 'crashed');
    await n.until('back', () => n.host.starts.length === i + 2 && running(n, vm.id)());
  }
  n.host.die(vm.id, 'crashed');
  await n.until('off', stopped(n, vm.id));
  await n.clock.advance(60_000);
  t.equal(n.host.starts.length, 6);
  t.match(n.said.get(vm.id)?.reason, /5 times within an hour/);
});

await scenario('while the ledger is being recovered nothing is started, stopped or deleted', async (n, t) => {
  const a = n.createVm();
  await n.until('running', running(n, a.id));
  // Also a record that cannot be read stands for a recovery.
  n.ledger.poke(recoveryKey, 'rubbish');
  const b = n.createVm();
  const [stop, del] = [n.action('stop', a.id), n.ask('vm.delete', a.id)];
  await n.clock.advance(120_000);
  t.equal(n.host.starts.length, 1);
  t.equal(n.host.domains.get(a.id)?.active, true);
  t.match(n.said.get(b.id)?.reason, /waits for the recovery of the ledger/);
  t.same(
    [stop, del, b.op].map((op) => n.op(op).state),
    ['queued', 'queued', 'queued'],
  );
  n.ledger.poke(recoveryKey, null);
  await n.until('the other starts', running(n, b.id));
  await n.until('deleted', finished(n, del));
  t.equal(n.host.domains.has(a.id), false);
});

await scenario('a node that hears of a later ledger than its own does nothing', async (n, t) => {
  n.peerUp('n2');
  const a = n.createVm();
  await n.until('running', running(n, a.id));
  const says = (epoch: number): void => {
    n.heard = n.heard.map((h) => (h.state === null ? h : { ...h, state: { ...h.state, epoch } }));
  };
  says(2);
  const b = n.createVm();
  n.action('stop', a.id);
  await n.clock.advance(60_000);
  t.equal(n.host.starts.length, 1);
  t.equal(n.host.domains.get(a.id)?.active, true);
  t.match(n.said.get(b.id)?.reason, /node n2 has the ledger of epoch 2, this one is of epoch 1/);
  says(1);
  await n.until('the other starts, the first stops', () => running(n, b.id)() && stopped(n, a.id)());
});

await scenario('an agent listens to the others before it starts anything, but not for long', async (n, t) => {
  await n.stop();
  n.addNode('n2');
  n.boot();
  const began = n.clock.nowMs();
  const vm = n.createVm();
  await n.until('it says why it waits', () => /listens whether/.test(n.said.get(vm.id)?.reason ?? ''));
  t.equal(n.host.starts.length, 0);
  await n.until('running', running(n, vm.id));
  const took = n.clock.nowMs() - began;
  t.ok(took >= 3_000 && took < 12_000, `${took} ms`);
});

await scenario('without a lease nothing starts, and a running VM is left alone', async (n, t) => {
  const a = n.createVm();
  await n.until('running', running(n, a.id));
  n.leased = false;
  const b = n.createVm();
  n.host.die(a.id, 'crashed');
  await n.clock.advance(60_000);
  t.equal(n.host.starts.length, 1);
  n.leased = true;
  await n.until('both run', () => running(n, a.id)() && running(n, b.id)());
});

await scenario('after a node reboot its VMs are started once, in a new generation', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  const gen = n.own(vm.id)?.gen ?? 0;
  const dead = n.loop?.stop();
  await n.clock.advance(6_000);
  await dead;
  n.host.reboot();
  n.boot();
  await n.until('running', running(n, vm.id));
  await n.clock.advance(30_000);
  t.equal(n.host.starts.length, 2);
  t.equal(n.own(vm.id)?.gen, gen + 1);
});

await scenario('a reset asked once is sent once', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  const op = n.action('reset', vm.id);
  await n.until('done', finished(n, op));
  await n.clock.advance(30_000);
  t.equal(n.host.resets, 1);
});

await scenario('pause and resume reach the machine, and a paused VM can be stopped', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  const pause = n.action('pause', vm.id);
  await n.until('paused', finished(n, pause));
  t.equal(n.host.domains.get(vm.id)?.state.state, 'paused');
  const resume = n.action('resume', vm.id);
  await n.until('resumed', finished(n, resume));
  t.equal(n.host.domains.get(vm.id)?.state.state, 'running');
  n.action('pause', vm.id);
  await n.until('paused', () => n.said.get(vm.id)?.phase === 'paused');
  n.action('stop', vm.id);
  await n.until('stopped', stopped(n, vm.id));
  t.equal(n.host.starts.length, 1);
});

await scenario(
  'vCPUs are plugged while it runs; memory above the start waits for a restart and is shown',
  async (n, t) => {
    const vm = n.createVm();
    await n.until('running', running(n, vm.id));
    n.edit(vm.id, { cpus: 2, memoryMiB: 256 });
    await n.until('plugged', () => /current="2"/.test(n.host.domains.get(vm.id)?.xml ?? ''));
    await n.until('shown', () => (n.said.get(vm.id)?.pendingRestart.length ?? 0) > 0);
    t.match(n.said.get(vm.id)?.pendingRestart, ['memory changes from 128 MiB to 256 MiB']);
  },
);

await scenario(
  'a disk that cannot be made fails the op with its code, and a delete leaves nothing',
  async (n, t) => {
    n.files.failMake = new FlotillaError('no-space', 'Pool "local" is full', { hint: 'Free some.' });
    const vm = n.createVm();
    await n.until('failed', finished(n, vm.op));
    t.equal(n.op(vm.op).state, 'failed');
    t.equal(n.op(vm.op).error?.code, 'no-space');
    const del = n.ask('vm.delete', vm.id);
    await n.until('deleted', finished(n, del));
    t.equal(n.op(del).state, 'done');
    t.same(n.ledger.peekAll('/flotilla/vm/'), []);
    t.same(n.ledger.peekAll('/flotilla/disk/'), []);
    t.same(n.ledger.peekAll('/flotilla/name/vm/'), []);
    t.equal(n.said.size, 0);
  },
);

await scenario(
  "a start that libvirt refuses fails the op with libvirt's words, and is tried again later",
  async (n, t) => {
    const check = n.host.beforeStart;
    n.host.beforeStart = () => {
      throw new Error('no such file');
    };
    const vm = n.createVm();
    await n.until('failed', finished(n, vm.op));
    t.equal(n.op(vm.op).state, 'failed');
    n.host.beforeStart = check;
    await n.until('running after all', running(n, vm.id));
  },
);

await scenario('libvirtd going away is not taken for the VMs being gone', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  n.host.up = false;
  await n.clock.advance(30_000);
  n.host.up = true;
  await n.clock.advance(30_000);
  t.equal(n.host.starts.length, 1);
  t.equal(n.own(vm.id)?.state, 'running');
});

await scenario('a ledger that went back in time is refused', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  const old = n.ledger.peek(`/flotilla/vm/${vm.id}/spec`)?.value ?? '';
  n.edit(vm.id, { note: 'newer' });
  await n.clock.advance(6_000);
  n.ledger.poke(`/flotilla/vm/${vm.id}/spec`, old.replace('"running"', '"stopped"'));
  await n.clock.advance(30_000);
  t.equal(n.host.domains.get(vm.id)?.active, true);
});

await scenario('an ownership record that cannot be read stops nothing and is shown', async (n, t) => {
  const vm = n.createVm();
  await n.until('running', running(n, vm.id));
  n.ledger.poke(`/flotilla/vm/${vm.id}/own`, '{"owner":');
  await n.clock.advance(30_000);
  t.equal(n.host.domains.get(vm.id)?.active, true);
  t.equal(n.host.starts.length, 1);
});

await scenario(
  'a machine here is removed only where the ledger names another owner by a newer generation',
  async (n, t) => {
    const vm = n.createVm();
    await n.until('running', running(n, vm.id));
    const own = n.own(vm.id);
    if (own === null) throw new Error('no own');
    n.ledger.poke(`/flotilla/vm/${vm.id}/own`, JSON.stringify({ ...own, owner: 'n2' }));
    await n.clock.advance(30_000);
    t.equal(n.host.domains.get(vm.id)?.active, true, 'same generation: left alone');
    n.ledger.poke(`/flotilla/vm/${vm.id}/own`, JSON.stringify({ ...own, owner: 'n2', gen: own.gen + 1 }));
    await n.until('removed', () => !n.host.domains.has(vm.id));
    t.equal(n.own(vm.id)?.owner, 'n2');
  },
);

await scenario('a domain that goes while it is looked at is no failure of the hypervisor', async (n, t) => {
  const kept = n.createVm();
  await n.until('running', running(n, kept.id));
  const gone = n.createVm();
  await n.until('running', running(n, gone.id));
  // Somebody undefines it by hand in the middle of the agent's look.
  n.host.domains.set('11111111-1111-4111-8111-111111111111', {
    xml: '<domain/>',
    active: false,
    state: { state: 'shut-off', reason: 'unknown' },
    id: null,
    agent: false,
  });
  n.host.vanish = '11111111-1111-4111-8111-111111111111';
  await n.until('looked at', () => n.host.vanish === null);
  await n.clock.advance(1_000);
  t.equal(n.loop?.health().find((h) => h.part === 'hypervisor')?.ok, true);
});

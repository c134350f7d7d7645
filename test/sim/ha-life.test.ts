import t from 'tap';
import { FlotillaError } from '../../core/domain/error.js';
import { LibvirtError } from '../../agent/libvirt/hypervisor.js';
import { failoverTimelineSchema, vmHaDefault } from '../../core/domain/ha.js';
import type { Op } from '../../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { SimNode, type Death } from './sim-node.js';

const ha = { ...vmHaDefault, enabled: true };
/** As the node n2 left it: it runs there, armed, and this node stands by. */
const atN2 = {
  owner: 'n2',
  standby: 'n1',
  gen: 7,
  state: 'running' as const,
  sync: 'ok' as const,
  fence: { armed: true, waitMs: 7_000 },
};

async function scenario(name: string, body: (n: SimNode, t: Tap.Test) => Promise<void>): Promise<void> {
  await t.test(name, async (t) => {
    const n = new SimNode();
    n.peerUp('n2');
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
const state = (n: SimNode, id: string, s: string) => () => n.said.get(id)?.ha.state === s;
const failovers = (n: SimNode): Op[] =>
  n.ledger
    .peekAll(kinds.op.prefix)
    .map((e) => JSON.parse(e.value) as Op)
    .filter((o) => o.kind === 'vm.failover');

await scenario('a VM with HA is armed before it starts, and gets a standby', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true });
  await n.until('protected', () => running(n, vm.id)() && state(n, vm.id, 'protected')());
  t.match(n.own(vm.id), { standby: 'n2', sync: 'ok', fence: { armed: true, waitMs: 7_000 } });
  t.same([...n.keeper.armed], [[vm.id, [`/share/takeover/${vm.id}.json`]]]);
  t.equal(n.host.starts.length, 1);
  const xml = n.host.domains.get(vm.id)?.xml ?? '';
  t.match(xml, /<partition>\/machine\/ha<\/partition>/);
  await n.clock.advance(60_000);
  t.equal(n.own(vm.id)?.gen, 3, 'started, standby named, and then nothing is written any more');
  n.action('stop', vm.id);
  await n.until('off and disarmed', () => n.own(vm.id)?.state === 'stopped' && n.keeper.armed.size === 0);
  t.same(n.own(vm.id)?.fence, { armed: false, waitMs: 0 });
});

await scenario(
  'a disk on a local pool, or a keeper that would not arm: it runs, and says why it is not protected',
  async (n, t) => {
    const local = n.createVm({ ha });
    await n.until('runs', running(n, local.id));
    t.match(n.said.get(local.id)?.ha, { state: 'unprotected', text: /not protected: .*local pool/ });
    n.keeper.why = 'there is no watchdog';
    const shared = n.createVm({ ha }, { shared: true });
    await n.until('runs', running(n, shared.id));
    await n.until('said', () => /no watchdog/.test(n.said.get(shared.id)?.ha.text ?? ''));
    t.equal(n.own(shared.id)?.fence.armed, false);
    n.keeper.why = null;
    await n.until('armed while it runs', state(n, shared.id, 'protected'));
    t.equal(n.host.starts.length, 2);
  },
);

await scenario(
  'a VM with HA that nobody arms is born paused as well, and goes on when own still says so',
  async (n, t) => {
    n.keeper.why = 'there is no watchdog';
    const born: boolean[] = [];
    n.host.beforeStart = (_uuid, _gen, paused) => void born.push(paused);
    const well = n.createVm({ ha }, { shared: true });
    await n.until('runs', running(n, well.id));
    t.same(born, [true]);
    n.host.startMs = () => 9_000;
    const lost = n.createVm({ ha }, { shared: true });
    await n.until('its start is decided', () => n.own(lost.id)?.state === 'running');
    const own = n.own(lost.id);
    if (own === null) throw new Error('no owner');
    // Somebody vouched that this node is off, and another one took the VM.
    n.ledger.poke(
      kinds.vmOwn.key(lost.id),
      writeRecord(kinds.vmOwn, { ...own, owner: 'n2', gen: own.gen + 1 }),
    );
    const states = new Set<string>();
    for (let i = 0; i < 300; i++) {
      await n.clock.advance(50);
      const d = n.host.domains.get(lost.id);
      if (d?.active === true) states.add(d.state.state);
    }
    t.same([...states], ['paused'], 'it was never awake');
    t.notOk(n.host.domains.has(lost.id), 'and it is gone');
  },
);

await scenario('HA turned on, paused and off while it runs', async (n, t) => {
  const vm = n.createVm({}, { shared: true });
  await n.until('runs', running(n, vm.id));
  n.edit(vm.id, { ha });
  await n.until('protected', state(n, vm.id, 'protected'));
  const pause = (paused: boolean) =>
    n.ledger.poke(
      '/flotilla/policy',
      JSON.stringify({ ha: { paused, hold: false, unsafeWithoutWatchdog: false } }),
    );
  pause(true);
  await n.until('disarmed', () => state(n, vm.id, 'paused')() && n.keeper.armed.size === 0);
  t.match(n.own(vm.id), { standby: 'n2', fence: { armed: false } });
  pause(false);
  await n.until('protected', state(n, vm.id, 'protected'));
  n.edit(vm.id, { ha: vmHaDefault });
  await n.until('off', () => n.keeper.armed.size === 0 && n.own(vm.id)?.standby === null);
  t.equal(n.said.get(vm.id)?.ha.state, 'off');
  t.equal(n.host.starts.length, 1);
});

await scenario(
  'a standby notes whose it is, but not while a machine of that VM is still here',
  async (n, t) => {
    const vm = n.createVm({ ha }, { shared: true, own: atN2 });
    await n.until('noted', () => n.journal.some((e) => e.vm === vm.id));
    t.match(n.journal, [{ vm: vm.id, gen: 7, role: 'standby', owner: 'n2' }]);
    const mine = n.createVm({ ha }, { shared: true });
    await n.until('runs', running(n, mine.id));
    n.keeper.mode = 'thaw';
    const lost = { ...n.own(mine.id), owner: 'n2', standby: 'n1', gen: 20 };
    n.ledger.poke(kinds.vmOwn.key(mine.id), JSON.stringify(lost));
    await n.clock.advance(10_000);
    t.not(n.journal.findLast((e) => e.vm === mine.id)?.gen, 20);
  },
);

await scenario('the owner is gone: waited out, taken once, started once, with a timeline', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  await n.clock.advance(10_000);
  t.equal(n.host.starts.length, 0);
  const beganMs = n.clock.nowMs();
  await n.peerDown('n2');
  await n.until('taken', () => n.own(vm.id)?.owner === 'n1');
  const tookMs = n.clock.nowMs() - beganMs;
  t.ok(tookMs >= 7_000 && tookMs < 8_500, `${tookMs} ms`);
  await n.until('runs', running(n, vm.id));
  t.ok(n.clock.nowMs() - beganMs < 9_000);
  t.match(n.files.takeovers.get(vm.id), { owner: 'n1' });
  const domain = n.host.domains.get(vm.id);
  if (domain) domain.agent = true;
  await n.until('done', () => failovers(n)[0]?.state === 'done');
  const timeline = failoverTimelineSchema.parse(failovers(n)[0]?.args);
  t.match(timeline, { from: 'n2', to: 'n1', fence: 'waited' });
  const phases = Object.entries(timeline.phasesMs);
  t.same(phases.map(([p]) => p).sort(), [
    'disk-ready',
    'guest-answers',
    'last-beat',
    'lease-gone',
    'owned',
    'running',
    'wait-over',
  ]);
  t.equal(n.own(vm.id)?.failoversMs.length, 1);
  t.equal(n.host.starts.length, 1);
  t.equal(failovers(n).length, 1);
});

await scenario('without a guest agent the failover ends all the same', async (n, t) => {
  n.createVm({ ha }, { shared: true, own: atN2 });
  await n.peerDown('n2');
  await n.until('done', () => failovers(n)[0]?.state === 'done', 180_000);
  t.match(failovers(n)[0]?.step, /no guest agent/);
});

await scenario('a failover whose machine ran is done, though the VM is stopped soon after', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  await n.peerDown('n2');
  await n.until('runs', () => /guest agent is waited for/.test(failovers(n)[0]?.step ?? ''), 60_000);
  n.action('stop', vm.id);
  await n.until('over', () => failovers(n)[0]?.state !== 'running');
  t.match(failovers(n)[0], { state: 'done', step: /^ran; the VM was stopped/ });
});

await scenario('an owner that comes back in time loses nothing, however often', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  for (let i = 0; i < 5; i++) {
    await n.peerDown('n2');
    await n.clock.advance(6_000);
    n.peerUp('n2');
    await n.clock.advance(1_000);
  }
  t.match(n.own(vm.id), { owner: 'n2', gen: 7 });
  t.equal(n.keeper.armed.size, 0);
});

await scenario('a return that falls between two readings restarts the wait', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  await n.clock.advance(2_000);
  await n.peerDown('n2');
  await n.clock.advance(5_000);
  // Back and gone again within one step of the ledger's clock: no reading can see it alive.
  n.peerUp('n2');
  n.ledger.drop(kinds.live.key('n2'));
  await n.clock.advance(5_000);
  t.equal(n.own(vm.id)?.owner, 'n2', '10 s since the first loss, 5 s since the last');
  await n.until('taken', () => n.own(vm.id)?.owner === 'n1');
});

await scenario('an owner back in the very last moment is found by the transaction', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  await n.peerDown('n2');
  let tries = 0;
  n.keeper.onArm = () => {
    // Between the plan and the transaction.
    if (tries++ === 0) n.peerUp('n2');
  };
  await n.until('tried', () => tries === 1);
  await n.until('disarmed again', () => n.keeper.armed.size === 0);
  await n.clock.advance(20_000);
  t.equal(n.own(vm.id)?.owner, 'n2');
  t.equal(tries, 1);
});

await scenario(
  'an owner that was back for a moment between the plan and the transaction restarts the wait',
  async (n, t) => {
    const vm = n.createVm({ ha }, { shared: true, own: atN2 });
    await n.peerDown('n2');
    let backMs: number | null = null;
    n.keeper.onArm = () => {
      if (backMs !== null) return;
      backMs = n.clock.nowMs();
      n.peerUp('n2');
      n.ledger.drop(kinds.live.key('n2'));
    };
    await n.until('taken', () => n.own(vm.id)?.owner === 'n1');
    t.ok(backMs !== null && n.clock.nowMs() - backMs >= 7_000);
  },
);

await scenario(
  'a node that is told to leave, or was removed, in the very last moment takes nothing',
  async (n, t) => {
    const key = kinds.node.key('n1');
    const vm = n.createVm({ ha }, { shared: true, own: atN2 });
    await n.clock.advance(2_000);
    await n.peerDown('n2');
    let tries = 0;
    n.keeper.onArm = () => {
      const e = n.ledger.peek(key);
      if (e !== null && tries++ === 0) n.ledger.poke(key, e.value.replace('"active"', '"leaving"'));
    };
    await n.until('tried', () => tries > 0);
    await n.clock.advance(30_000);
    t.equal(n.own(vm.id)?.owner, 'n2');
    n.ledger.drop(key);
    await n.clock.advance(30_000);
    t.equal(n.own(vm.id)?.owner, 'n2');
  },
);

await scenario('a pool that is awaited is looked at every two seconds', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  n.files.poolsOk = false;
  await n.clock.advance(30_000);
  await n.peerDown('n2');
  await n.until('waits', () =>
    /is not well/.test(n.loop?.health().find((h) => h.part === 'failover')?.text ?? ''),
  );
  await n.clock.advance(100_000);
  n.files.poolsOk = true;
  const backMs = n.clock.nowMs();
  await n.until('taken', () => n.own(vm.id)?.owner === 'n1');
  t.ok(n.clock.nowMs() - backMs < 7_500, `${n.clock.nowMs() - backMs} ms`);
});

await scenario('a live key alone, however it was made, keeps its node from losing a VM', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  const live = n.ledger.peek(kinds.live.key('n2'))?.value ?? '';
  await n.peerDown('n2');
  n.keeper.onArm = () => n.ledger.poke(kinds.live.key('n2'), live);
  await n.clock.advance(30_000);
  t.equal(n.own(vm.id)?.owner, 'n2');
});

await scenario(
  'an unarmed owner is not waited out; somebody who confirms that it is off is believed, for this absence',
  async (n, t) => {
    const vm = n.createVm({ ha }, { shared: true, own: { ...atN2, fence: { armed: false, waitMs: 0 } } });
    const seen = (): string => String(n.ledger.peek(kinds.seen.key('n2'))?.modRevision);
    const confirm = (seenRevision: string) =>
      n.ledger.poke(
        kinds.fenced.key('n2'),
        JSON.stringify({ node: 'n2', seenRevision, how: 'person', by: 'me', atMs: 1 }),
      );
    const before = seen();
    n.peerUp('n2');
    await n.peerDown('n2');
    confirm(before);
    await n.clock.advance(60_000);
    t.equal(n.own(vm.id)?.owner, 'n2');
    t.match(n.loop?.health().find((h) => h.part === 'failover')?.text, /was not armed/);
    confirm(seen());
    await n.until('runs', running(n, vm.id));
    t.match(failovers(n)[0]?.args, { fence: 'person' });
  },
);

await scenario('a disk still locked is tried each second, and no op fails for it', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true, own: atN2 });
  const check = n.host.beforeStart;
  let refused = 0;
  n.host.beforeStart = (uuid, gen, paused) => {
    check(uuid, gen, paused);
    if (refused++ < 20)
      throw new LibvirtError('internal error: Failed to get "write" lock', {
        code: 'refused',
        outcome: 'refused',
      });
  };
  await n.peerDown('n2');
  await n.until('refused once', () => refused >= 1);
  const beganMs = n.clock.nowMs();
  await n.until('said', () => /still locked/.test(n.said.get(vm.id)?.reason ?? ''));
  t.equal(n.said.get(vm.id)?.phase, 'starting');
  await n.until('runs', running(n, vm.id));
  const tookMs = n.clock.nowMs() - beganMs;
  t.ok(tookMs >= 20_000 && tookMs < 27_000, `${tookMs} ms for 20 refusals`);
  t.not(failovers(n)[0]?.state, 'failed');
});

await scenario('a lock that nobody lets go of fails in words after the patience', async (n, t) => {
  n.createVm({ ha }, { shared: true, own: atN2 });
  n.host.beforeStart = () => {
    throw new LibvirtError('Failed to get "write" lock', { code: 'refused', outcome: 'refused' });
  };
  await n.peerDown('n2');
  await n.until('failed', () => failovers(n)[0]?.state === 'failed', 150_000);
  t.match(failovers(n)[0]?.error, {
    code: 'disk-locked',
    message: /locked by another machine after 9[78] s/,
    hint: /Power that node off or end the program/,
  });
});

await scenario('a guest whose agent falls silent is reset; a frozen one is not', async (n, t) => {
  const vm = n.createVm({ ha: { ...ha, onHang: 'reset' } }, { shared: true });
  await n.until('runs', running(n, vm.id));
  t.match(n.host.domains.get(vm.id)?.xml ?? '', /<watchdog model="i6300esb" action="reset"/);
  const domain = n.host.domains.get(vm.id);
  if (domain) domain.agent = true;
  n.host.emit({ type: 'agent-lifecycle', uuid: vm.id, name: vm.id, state: 'connected', reason: 'channel' });
  await n.clock.advance(30_000);
  n.keeper.mode = 'ice';
  n.host.guestAnswers = false;
  await n.clock.advance(120_000);
  t.equal(n.host.resets, 0, 'its time stood still');
  n.keeper.mode = 'run';
  n.host.up = false;
  await n.clock.advance(120_000);
  n.host.up = true;
  await n.clock.advance(30_000);
  t.equal(n.host.resets, 0, 'nobody could tell');
  await n.until('reset', () => n.host.resets === 1);
  n.host.guestAnswers = true;
  await n.clock.advance(60_000);
  t.equal(n.host.resets, 1);
});

await scenario(
  'what this node lost while it was away is removed and disarmed, never started',
  async (n, t) => {
    const vm = n.createVm({ ha }, { shared: true });
    await n.until('protected', state(n, vm.id, 'protected'));
    n.keeper.mode = 'thaw';
    const own = n.own(vm.id);
    n.ledger.poke(
      kinds.vmOwn.key(vm.id),
      JSON.stringify({ ...own, owner: 'n2', standby: null, gen: (own?.gen ?? 0) + 1 }),
    );
    await n.clock.advance(10_000);
    t.equal(n.host.domains.get(vm.id)?.active, true, 'the keeper ends the frozen machine, not the agent');
    n.host.die(vm.id, 'destroyed');
    await n.until('gone', () => !n.host.domains.has(vm.id) && n.keeper.armed.size === 0);
    t.equal(n.host.starts.length, 1);
    t.match(n.journal.at(-1), { vm: vm.id, role: 'none', owner: 'n2' });
  },
);

interface FakeBmc {
  offs: number;
  /** Of the machine that it says it belongs to. */
  uuid: string | null;
}

/** A BMC: what it came to, and what happened while it worked. */
function fakeBmc(n: SimNode, o: { confirms: boolean; meanwhile?: () => void }): FakeBmc {
  const bmc: FakeBmc = { offs: 0, uuid: null };
  n.fencer = {
    off: async () => {
      bmc.offs++;
      await n.clock.sleep(1_000);
      o.meanwhile?.();
      if (o.confirms) return { kind: 'confirmed-off' };
      return {
        kind: 'not-confirmed',
        error: new FlotillaError('fence-failed', 'wrong password', { hint: '' }),
      };
    },
    on: async () => ({ kind: 'confirmed-on' }),
    status: async () => ({ kind: 'answers', power: 'on' }),
    identify: async () => ({ kind: 'answers', uuid: bmc.uuid }),
  };
  n.ledger.poke(
    kinds.bmc.key('n2'),
    JSON.stringify({ kind: 'ipmi', address: '10.0.0.99', user: 'admin', password: 'secret' }),
  );
  return bmc;
}
async function fenced(
  name: string,
  o: (n: SimNode) => { confirms: boolean; meanwhile?: () => void },
  body: (n: SimNode, bmc: FakeBmc, t: Tap.Test) => Promise<void>,
): Promise<void> {
  await t.test(name, async (t) => {
    const n = new SimNode();
    n.peerUp('n2');
    const bmc = fakeBmc(n, o(n));
    n.boot();
    t.teardown(() => n.stop());
    await body(n, bmc, t as unknown as Tap.Test);
    t.notMatch(JSON.stringify([n.events, n.loop?.health()]), /secret/, 'no secret is said');
  });
}

await fenced(
  'a BMC that confirms spares the wait, also for an owner that was not armed',
  () => ({ confirms: true }),
  async (n, bmc, t) => {
    const vm = n.createVm({ ha }, { shared: true, own: { ...atN2, fence: { armed: false, waitMs: 0 } } });
    await n.clock.advance(1_000);
    const beganMs = n.clock.nowMs();
    await n.peerDown('n2');
    await n.until('runs', running(n, vm.id));
    t.ok(n.clock.nowMs() - beganMs < 4_500, `${n.clock.nowMs() - beganMs} ms`);
    t.equal(bmc.offs, 1);
    t.match(failovers(n)[0]?.args, { fence: 'bmc' });
    t.equal(n.ledger.peek('/flotilla/fencing/n2'), null, 'the claim is given back');
  },
);

await fenced(
  'a BMC that is another machine’s is found out when it is tried, and not used',
  () => ({ confirms: true }),
  async (n, bmc, t) => {
    const key = kinds.bmcTest.key('n2');
    const asked = { node: 'n2', askedMs: 1, askedBy: 'somebody', result: null };
    const result = (): unknown =>
      (JSON.parse(n.ledger.peek(key)?.value ?? '{}') as { result: unknown }).result;
    const tried = async (): Promise<void> => {
      n.ledger.poke(key, JSON.stringify(asked));
      await n.until('it is tried', () => result() !== null);
    };
    const facts = { cpuModel: '', cpuCores: 1, cpuMHz: 1, memoryBytes: 1, drives: [], nics: [] };
    const uuid = '4c4c4544-0031-5610-8052-b4c04f4e3332';
    n.heard = n.heard.map((h) => ({
      ...h,
      state: h.state && { ...h.state, facts: { ...facts, temperatureC: null, os: '', kernel: '', uuid } },
    }));
    await tried();
    t.match(result(), { by: 'n1', power: 'on', machine: 'unknown' });
    // The same bytes, as IPMI has them.
    bmc.uuid = '32334e4f-c0b4-5280-1056-310044454c4c';
    await tried();
    t.match(result(), { machine: 'same', text: /it is the BMC of n2/ });
    bmc.uuid = '00112233-4455-6677-8899-aabbccddeeff';
    await tried();
    t.match(result(), { machine: 'other', text: /it is not used/ });
    const vm = n.createVm({ ha }, { shared: true, own: { ...atN2, fence: { armed: false, waitMs: 0 } } });
    await n.peerDown('n2');
    await n.clock.advance(60_000);
    t.equal(bmc.offs, 0, 'another machine keeps its power');
    t.equal(n.own(vm.id)?.owner, 'n2');
    t.match(n.loop?.health().find((h) => h.part === 'failover')?.text, /confirm-off n2/);
  },
);

await fenced(
  'a BMC that does not confirm proves nothing, and is asked again ever more seldom',
  () => ({ confirms: false }),
  async (n, bmc, t) => {
    const vm = n.createVm({ ha }, { shared: true, own: { ...atN2, fence: { armed: false, waitMs: 0 } } });
    await n.peerDown('n2');
    await n.clock.advance(600_000);
    t.equal(n.own(vm.id)?.owner, 'n2');
    t.ok(bmc.offs >= 4 && bmc.offs <= 9, `${bmc.offs} tries`);
    t.match(n.events.map((e) => e.text).join(), /did not confirm that it is off: wrong password/);
  },
);

await fenced(
  'a node that came back while it was powered off is not proven off',
  (n) => ({ confirms: true, meanwhile: () => n.peerUp('n2') }),
  async (n, bmc, t) => {
    const vm = n.createVm({ ha }, { shared: true, own: atN2 });
    await n.peerDown('n2');
    await n.clock.advance(60_000);
    t.equal(bmc.offs, 1);
    t.equal(n.own(vm.id)?.owner, 'n2');
    t.equal(n.ledger.peek(kinds.fenced.key('n2')), null);
  },
);

await fenced(
  'while another node powers it off, this one does not',
  () => ({ confirms: true }),
  async (n, bmc, t) => {
    n.createVm({ ha }, { shared: true, own: { ...atN2, fence: { armed: false, waitMs: 0 } } });
    n.ledger.poke('/flotilla/fencing/n2', 'n3');
    await n.peerDown('n2');
    await n.clock.advance(30_000);
    t.equal(bmc.offs, 0);
  },
);

await fenced(
  'an agent that died while it powered a node off leaves no claim that keeps the next one from it',
  () => ({ confirms: true }),
  async (n, bmc, t) => {
    const vm = n.createVm({ ha }, { shared: true, own: { ...atN2, fence: { armed: false, waitMs: 0 } } });
    // Its keeper lives on, and with it the lease that the claim is bound to.
    n.ledger.poke('/flotilla/fencing/n2', 'n1');
    await n.peerDown('n2');
    await n.until('runs', running(n, vm.id));
    t.equal(bmc.offs, 1);
    t.equal(n.ledger.peek('/flotilla/fencing/n2'), null);
  },
);

/** Armed, stopped, started, another VM taken over: with an agent that dies at one of its acts. */
async function life(death: Death | null): Promise<{ node: SimNode; acts: number; died: boolean }> {
  const n = new SimNode();
  n.peerUp('n2');
  n.boot(death);
  const until = n.untilOutlived.bind(n);
  const mine = n.createVm({ ha }, { shared: true });
  await until('protected', () => running(n, mine.id)() && state(n, mine.id, 'protected')());
  const theirs = n.createVm({ ha }, { shared: true, own: atN2 });
  const idle = n.createVm({ ha, power: 'stopped' }, { shared: true, own: { ...atN2, state: 'stopped' } });
  await n.peerDown('n2');
  await until('taken over', running(n, theirs.id));
  await until('moved', () => n.own(idle.id)?.owner === 'n1');
  await until('failover done', () => {
    const domain = n.host.domains.get(theirs.id);
    if (domain?.active === true) domain.agent = true;
    return failovers(n).every((o) => o.state === 'done');
  });
  n.peerUp('n2');
  await until('protected', () => state(n, mine.id, 'protected')() && state(n, theirs.id, 'protected')());
  n.action('stop', mine.id);
  n.edit(theirs.id, { ha: vmHaDefault });
  await until('disarmed', () => n.own(mine.id)?.state === 'stopped' && n.keeper.armed.size === 0);
  return { node: n, acts: n.acts, died: n.deaths > 0 };
}

await t.test('the agent dies at each act of arming, takeover and start', async (t) => {
  const whole = await life(null);
  await whole.node.stop();
  t.ok(whole.acts > 20, `${whole.acts} acts`);
  for (let at = 0; at < whole.acts; at++) {
    for (const when of ['before', 'after'] as const) {
      const { node, died } = await life({ at, when });
      const name = `${when} act ${at}`;
      t.ok(died, `${name}: it died`);
      t.ok(node.host.starts.length <= 3, `${name}: ${node.host.starts.length} starts`);
      t.equal(failovers(node).length, 1, `${name}: one failover`);
      const gens = node.ledger.history.filter((c) => c.key.endsWith('/own') && c.value !== null);
      for (const id of new Set(gens.map((c) => c.key))) {
        const of = gens
          .filter((c) => c.key === id)
          .map((c) => (JSON.parse(c.value ?? '') as { gen: number }).gen);
        t.ok(
          of.every((g, i) => i === 0 || g === (of[i - 1] ?? 0) + 1),
          `${name}: generations rise by one: ${of.join()}`,
        );
      }
      await node.stop();
    }
  }
});

await scenario('a disc whose only file went with the node does not keep its VM down', async (n, t) => {
  const iso = n.createIso('n2');
  const vm = n.createVm({ ha, cdroms: [{ image: iso }] }, { shared: true, own: atN2 });
  const lone = n.createVm({ cdroms: [{ image: iso }] });
  await n.clock.advance(2_000);
  await n.peerDown('n2');
  await n.until('runs here', running(n, vm.id));
  t.notMatch(n.host.domains.get(vm.id)?.xml ?? '', iso, 'the drive is empty');
  await n.until('failed', () => n.said.get(lone.id)?.phase === 'failed');
  t.match(
    n.said.get(lone.id)?.error,
    { code: 'node-unreachable' },
    'without HA somebody is there to be told',
  );
  await n.clock.advance(120_000);
  t.ok(running(n, vm.id)(), 'and it goes on so');
  n.peerUp('n2');
  n.files.images.add(iso);
  await n.until('the disc is in', () => n.host.domains.get(vm.id)?.xml.includes(iso) === true);
});

await scenario('an agent that cannot see its machines gives its keeper no sign of life', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true });
  await n.until('protected', () => running(n, vm.id)() && state(n, vm.id, 'protected')());
  const before = n.beats;
  await n.clock.advance(20_000);
  t.ok(n.beats > before, 'it gives them');
  n.host.up = false;
  await n.clock.advance(10_000);
  const away = n.beats;
  await n.clock.advance(60_000);
  t.equal(n.beats, away);
  n.host.up = true;
  await n.until('again', () => n.beats > away);
});

await scenario('a node whose libvirt is gone is no standby, though its keeper would arm', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true });
  await n.until('protected', state(n, vm.id, 'protected'));
  const ill = [{ part: 'hypervisor', ok: false, text: 'no daemon' }];
  n.heard = n.heard.map((h) => (h.state === null ? h : { ...h, state: { ...h.state, health: ill } }));
  await n.until('said', state(n, vm.id, 'unprotected'));
  t.match(n.said.get(vm.id)?.ha.text, /n2 its hypervisor is not well: no daemon/);
  n.peerUp('n3');
  await n.until('another one is chosen', () => n.own(vm.id)?.standby === 'n3');
});

await scenario('a machine of before a recovery ends where others had the VM since', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true });
  await n.until('protected', () => running(n, vm.id)() && state(n, vm.id, 'protected')());
  const own = n.own(vm.id);
  if (own === null) throw new Error('no owner');
  const was = n.host.domains.get(vm.id);
  n.ledger.poke(
    kinds.vmOwn.key(vm.id),
    writeRecord(kinds.vmOwn, {
      ...own,
      gen: own.gen + 1_000,
      fence: { armed: false, waitMs: 0 },
      fresh: true,
    }),
  );
  await n.until('started afresh', () => n.host.starts.length === 2 && running(n, vm.id)());
  t.not(n.host.domains.get(vm.id), was);
  t.match(n.own(vm.id), { fresh: false });
  await n.clock.advance(20_000);
  t.equal(n.host.starts.length, 2);
});

await scenario('a machine of before is not taken for the one of the failover', async (n, t) => {
  const vm = n.createVm({ ha }, { shared: true });
  await n.until('protected', () => running(n, vm.id)() && state(n, vm.id, 'protected')());
  // Held by the keeper: its journal cannot be read, so that it kills nothing.
  n.keeper.mode = 'ice';
  n.leased = false;
  const own = n.own(vm.id);
  if (own === null) throw new Error('no owner');
  n.ledger.poke(
    kinds.vmOwn.key(vm.id),
    writeRecord(kinds.vmOwn, { ...own, owner: 'n2', standby: 'n1', gen: own.gen + 1 }),
  );
  await n.clock.advance(5_000);
  await n.peerDown('n2');
  await n.clock.advance(5_000);
  n.leased = true;
  await n.clock.advance(20_000);
  t.equal(n.own(vm.id)?.owner, 'n2', 'left alone');
  t.equal(n.host.starts.length, 1);
  n.keeper.mode = 'run';
  await n.until('the old one gone, a new one here', () => n.host.starts.length === 2);
  t.equal(n.own(vm.id)?.owner, 'n1');
  await n.until('runs', running(n, vm.id));
});

import t from 'tap';
import { liveKey, seenKey, fencedKey } from '../../../../core/wire/key-names.js';
import { KeeperRig } from './fake-env.js';

const live = liveKey('n1');

void t.test('alive while it renews; with nothing armed the lease goes back when it stops', async (t) => {
  const rig = new KeeperRig();
  rig.memory.poke(fencedKey('n1'), '{}');
  await rig.up();
  const first = rig.memory.peek(live);
  t.equal(rig.keeper.state().mode, 'run');
  t.equal(rig.keeper.state().createRevision, first?.createRevision);
  t.equal(rig.memory.peek(seenKey('n1'))?.modRevision, first?.createRevision, 'seen in the same transaction');
  t.equal(rig.memory.peek(fencedKey('n1')), null, 'and the proof of its absence ends with it');
  t.same(JSON.parse(first?.value ?? ''), { node: 'n1', boot: 'boot-1', version: '0' });
  await rig.clock.advance(60_000);
  t.equal(
    rig.memory.peek(live)?.createRevision,
    first?.createRevision,
    'a minute later the same incarnation',
  );
  t.equal(rig.watchdog.pets, 0, 'the device was never opened');
  t.notOk(rig.freezer.sliceFrozen);
  await rig.end();
  t.equal(rig.memory.peek(live), null);
});

void t.test(
  'armed: resolves after a pet, freezes when cut off, petted freely, thaws with the ledger',
  async (t) => {
    const rig = new KeeperRig();
    await rig.up();
    t.same(rig.keeper.state().armable, { ok: true, waitMs: 7_000 });
    await rig.armed('a');
    await rig.armed('b', { inSlice: false });
    t.same(rig.keeper.state().armed, ['a', 'b']);
    t.ok(rig.watchdog.pets >= 2);
    await rig.clock.advance(30_000);
    const was = rig.memory.peek(live)?.createRevision ?? 0n;

    rig.client.partitioned = true;
    await rig.clock.advance(rig.timing.renewalGoodMs + 50);
    t.equal(rig.keeper.state().mode, 'ice');
    t.notOk(rig.freezer.runs('a'));
    t.notOk(rig.freezer.runs('b'));
    t.ok(rig.memory.peek(live), 'frozen before the lease ended');
    await rig.clock.advance(120_000);
    t.notOk(rig.watchdog.bitten(), 'the node stays up');

    rig.client.partitioned = false;
    await rig.clock.advance(2_000);
    t.equal(rig.keeper.state().mode, 'run');
    t.ok(rig.freezer.runs('a') && rig.freezer.runs('b'));
    t.ok((rig.memory.peek(live)?.createRevision ?? 0n) > was, 'another incarnation');
    t.same(rig.keeper.state().held, []);
    await rig.clock.advance(10_000);
    t.notOk(rig.watchdog.bitten());
    await rig.end();
    t.ok(rig.store.run?.lease, 'armed: the lease is kept for the next start');
    t.ok(rig.watchdog.counts, 'and the device runs on');
  },
);

void t.test(
  'twins end with the lease, whatever else is armed; one that became its own is frozen',
  async (t) => {
    const rig = new KeeperRig();
    await rig.up();
    rig.freezer.there.set('t', { inSlice: false, frozen: false, twin: true });
    await rig.clock.advance(5_000);
    t.ok(rig.freezer.there.has('t'), 'while all is well it lives');
    rig.client.partitioned = true;
    await rig.clock.advance(rig.timing.renewalGoodMs + 2_000);
    t.equal(rig.keeper.state().mode, 'ice');
    t.notOk(rig.freezer.there.has('t'));
    rig.client.partitioned = false;
    await rig.clock.advance(3_000);
    await rig.armed('u');
    rig.freezer.there.set('u', { inSlice: false, frozen: false, twin: true });
    rig.client.partitioned = true;
    await rig.clock.advance(rig.timing.renewalGoodMs + 2_000);
    t.ok(rig.freezer.there.has('u'));
    t.notOk(rig.freezer.runs('u'));
    await rig.end();
  },
);

void t.test(
  'a keepalive without the read of the own key is no renewal: a deposed leader answers it',
  async (t) => {
    const rig = new KeeperRig();
    await rig.up();
    await rig.armed('a');
    rig.ledger.read = async () => {
      await rig.clock.sleep(700);
      throw new Error('no linearizable read');
    };
    await rig.clock.advance(rig.timing.renewalGoodMs + 100);
    t.ok(rig.memory.peek(live), 'the lease lives on by keepalives');
    t.equal(rig.keeper.state().mode, 'ice');
    t.notOk(rig.freezer.runs('a'));
    await rig.end();
  },
);

void t.test(
  'a ledger whose renewals are too old to pet: frozen, not reset, and the lease goes',
  async (t) => {
    const rig = new KeeperRig();
    await rig.up();
    await rig.armed('a');
    await rig.clock.advance(5_000);
    // keepalive and read take 1.1 s together: older than D when they are there, younger than a renewal counts.
    rig.client.delayMs = 550;
    const pets = rig.watchdog.pets;
    while (rig.keeper.state().mode !== 'ice') {
      t.equal(rig.watchdog.pets, pets, 'no pet on an old renewal');
      await rig.clock.advance(100);
      if (rig.watchdog.bitten()) break;
    }
    await rig.clock.advance(60_000);
    t.notOk(rig.watchdog.bitten(), 'the node stays up');
    t.notOk(rig.freezer.runs('a'));
    t.equal(rig.memory.peek(live), null, 'its standby may take over: it is no slower');
    t.match(
      rig.keeper.state().text,
      /not renewed: the ledger takes 0.6 s for an answer that must come within 0.5 s/,
    );
    const modes = new Set(rig.states.slice(-50).map((s) => s.mode));
    t.same([...modes], ['ice'], 'it does not freeze and thaw in turns');

    rig.client.delayMs = 10;
    await rig.clock.advance(2_000);
    t.equal(rig.keeper.state().mode, 'run');
    t.ok(rig.freezer.runs('a'));
    await rig.end();
  },
);

void t.test('one slow renewal between good ones freezes nothing', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  for (let i = 0; i < 10; i++) {
    await rig.clock.advance(3_000);
    rig.client.delayMs = 650;
    await rig.clock.advance(800);
    rig.client.delayMs = 10;
  }
  t.notOk(rig.states.slice(3).some((s) => s.mode === 'ice'));
  t.notOk(rig.watchdog.bitten());
  await rig.end();
});

void t.test('a ledger now prompt and now too slow: it freezes, and does not thaw each time', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  const before = rig.states.length;
  // Prompt for as long as one thaw takes, then slow for as long as one freeze does.
  for (let i = 0; i < 60; i++) {
    rig.client.delayMs = 10;
    await rig.clock.advance(1_500);
    rig.client.delayMs = 600;
    await rig.clock.advance(3_500);
  }
  let thaws = 0;
  rig.states.slice(before).reduce((a, b) => {
    if (a.mode === 'thaw' && b.mode === 'run') thaws++;
    return b;
  });
  t.ok(thaws <= 5, `${thaws} thaws in 5 minutes`);
  t.notOk(rig.watchdog.bitten());
  rig.client.delayMs = 10;
  await rig.clock.advance(6_000);
  t.equal(rig.keeper.state().mode, 'run', 'a prompt ledger is believed soon');
  await rig.end();
});

void t.test('nothing armed: a slow ledger is good enough to start and stop VMs by', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  rig.client.delayMs = 550;
  await rig.clock.advance(30_000);
  t.equal(rig.keeper.state().mode, 'run');
  t.match(rig.keeper.state().armable, { ok: false, why: /longer than 1 s/ });
  await t.rejects(rig.keeper.arm('a', { takeover: [], gen: 1 }), { code: 'not-armable' });
  await rig.clock.advance(10_000);
  t.equal(rig.keeper.state().mode, 'run');
  await rig.end();
});

void t.test('a device that would be closed by the death of the keeper is waited for once more', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  rig.watchdog.kept = 'soon';
  rig.freezer.add('a');
  let armed: { waitMs: number } | null = null;
  const done = rig.keeper.arm('a', { takeover: [], gen: 1 }).then((a) => (armed = a));
  await rig.clock.advance(2_000);
  t.equal(armed, null, 'not before it is known');
  t.ok(rig.watchdog.pets > 0);
  rig.watchdog.kept = 'no';
  await rig.clock.advance(rig.timing.renewEveryMs / 5);
  t.same(armed, { waitMs: 12_000 }, 'and a migration or start does not wait for the next renewal');
  await done;
  t.same(rig.keeper.state().armable, { ok: true, waitMs: 12_000 });
  rig.watchdog.kept = 'yes';
  t.same(rig.keeper.state().armable, { ok: true, waitMs: 7_000 });
  await rig.end();
});

void t.test('a watchdog that a keeper left running as it died while stopping it is stopped', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  rig.keeper.disarm('a');
  await rig.clock.advance(100);
  t.notOk(rig.watchdog.counts);
  rig.watchdog.pet();
  await rig.crash();
  await rig.clock.advance(100);
  t.notOk(rig.watchdog.counts);
  await rig.end();
});

void t.test('a lease that ends early freezes at once; the new incarnation goes through THAW', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  const was = rig.memory.peek(live);
  rig.memory.expireNow(was?.lease ?? '');
  const before = rig.states.length;
  await rig.clock.advance(rig.timing.renewEveryMs + 200);
  const modes = rig.states.slice(before).map((s) => s.mode);
  t.ok(modes.includes('ice') && modes.includes('thaw'));
  t.equal(rig.keeper.state().mode, 'run');
  t.ok((rig.keeper.state().createRevision ?? 0n) > (was?.createRevision ?? 0n));
  await rig.end();
});

void t.test('a key that no lease ends is removed, never taken over', async (t) => {
  const rig = new KeeperRig();
  rig.memory.poke(live, '{"node":"n1","boot":"other","version":"0"}');
  const old = rig.memory.peek(live)?.createRevision ?? 0n;
  await rig.up();
  t.ok((rig.keeper.state().createRevision ?? 0n) > old);
  t.match(rig.memory.peek(live)?.value, /boot-1/);
  await rig.end();
});

void t.test('two machines with one identity: the second gets no lease, and says why', async (t) => {
  const rig = new KeeperRig();
  const twin = await rig.client.grantLease(rig.timing.leaseTtlS);
  const value = '{"node":"n1","boot":"other","version":"0"}';
  await rig.client.txn([], [{ put: live, value, lease: twin }]);
  const theirs = rig.memory.peek(live)?.createRevision;
  rig.keeper.start();
  const pass = async (ms: number, renews: boolean) => {
    for (let i = 0; i < ms; i += 500) {
      if (renews) await rig.client.keepAlive(twin);
      await rig.clock.advance(500);
    }
  };
  await pass(2_000, true);
  t.match(rig.keeper.state().text, /the boot before has not ended yet/);
  await pass(60_000, true);
  t.equal(rig.memory.peek(live)?.createRevision, theirs, 'nothing is taken from the one that is alive');
  t.match(rig.keeper.state(), { mode: 'ice', text: /another machine is alive as this node/ });
  t.equal(rig.keeper.state().createRevision, null);
  await pass(rig.timing.leaseTtlS * 1_000 + 3_000, false);
  t.match(rig.memory.peek(live)?.value, /boot-1/, 'when it is gone the place is free');
  t.equal(rig.keeper.state().mode, 'run');
  await rig.end();
});

void t.test('an acquisition whose answer was lost ends in one live incarnation', async (t) => {
  const rig = new KeeperRig();
  rig.client.failNext('unknown', { only: 'txn' });
  await rig.up();
  await rig.clock.advance(3_000);
  t.equal(rig.keeper.state().mode, 'run');
  t.equal(rig.memory.peek(live)?.createRevision, rig.keeper.state().createRevision);
  await rig.end();
});

void t.test('killed and started within a boot: the same incarnation, no freeze, no free pet', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  await rig.clock.advance(5_000);
  const { boot, createRevision } = rig.keeper.state();
  const pets = rig.watchdog.pets;
  rig.client.delayMs = 100;
  await rig.crash(600);
  t.equal(rig.keeper.state().mode, 'run');
  await rig.clock.advance(50);
  t.equal(rig.watchdog.pets, pets, 'not opened before a good renewal');
  await rig.clock.advance(400);
  t.ok(rig.watchdog.pets > pets);
  t.equal(rig.keeper.state().boot, boot);
  t.equal(rig.keeper.state().createRevision, createRevision);
  t.same(rig.keeper.state().armed, ['a']);
  t.ok(rig.freezer.runs('a'));
  t.notOk(rig.watchdog.bitten());
  await rig.end();
});

void t.test('away for longer than a renewal is good: it starts frozen', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  rig.client.partitioned = true;
  await rig.crash(2_600);
  await rig.clock.advance(50);
  t.equal(rig.keeper.state().mode, 'ice');
  t.notOk(rig.freezer.runs('a'));
  await rig.clock.advance(20_000);
  t.notOk(rig.watchdog.bitten());
  rig.client.partitioned = false;
  await rig.clock.advance(2_000);
  t.ok(rig.freezer.runs('a'));
  await rig.end();
});

void t.test(
  'the record of this boot is lost: what is in the slice counts as armed, and freezes first',
  async (t) => {
    const rig = new KeeperRig();
    await rig.up();
    await rig.armed('a');
    rig.watchdog.nowayout = true;
    rig.client.partitioned = true;
    rig.freezer.blind = true;
    const pets = rig.watchdog.pets;
    const crashed = rig.crash(100);
    rig.store.run = null;
    await crashed;
    await rig.clock.advance(1_000);
    t.equal(rig.watchdog.pets, pets, 'nothing is known, nothing is petted');
    rig.freezer.blind = false;
    await rig.clock.advance(2_000);
    t.notOk(rig.freezer.runs('a'));
    t.ok(rig.watchdog.pets > pets);
    rig.client.partitioned = false;
    await rig.clock.advance(2_000);
    t.equal(rig.keeper.state().mode, 'run');
    t.ok(rig.freezer.runs('a'));
    t.same(rig.keeper.state().armed, ['a']);
    t.notOk(rig.watchdog.bitten());
    await rig.end();
  },
);

void t.test('what does not freeze is not petted for: the watchdog decides', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  rig.freezer.stubborn.add('a');
  rig.client.partitioned = true;
  await rig.clock.advance(rig.timing.renewalGoodMs + 100);
  const pets = rig.watchdog.pets;
  await rig.clock.advance(10_000);
  t.equal(rig.watchdog.pets, pets);
  t.ok(rig.watchdog.bitten());
  t.match(rig.keeper.state().text, /not frozen: a/);
  await rig.end();
});

void t.test('machines that cannot be looked for are not frozen either', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  rig.freezer.blind = true;
  rig.client.partitioned = true;
  await rig.clock.advance(12_000);
  t.ok(rig.watchdog.bitten());
  await rig.end();
});

void t.test(
  'THAW: what another node owns is killed, what is in doubt stays frozen, the rest goes on',
  async (t) => {
    const rig = new KeeperRig();
    await rig.up();
    for (const vm of ['mine', 'theirs', 'gone', 'broken', 'equal']) await rig.armed(vm);
    rig.client.partitioned = true;
    await rig.clock.advance(5_000);
    rig.own('theirs', 'n2', 4);
    rig.own('equal', 'n2', 3);
    await rig.memory.client('x').txn([], [{ del: '/flotilla/vm/gone/own' }]);
    rig.memory.poke('/flotilla/vm/broken/own', '{"owner": 7}');
    rig.client.partitioned = false;
    await rig.clock.advance(2_000);
    t.equal(rig.keeper.state().mode, 'run');
    t.same(rig.freezer.killed, ['theirs']);
    t.notOk(rig.keeper.holds('theirs'), 'what comes to life late must not run');
    t.ok(rig.freezer.runs('mine'));
    for (const vm of ['gone', 'broken', 'equal']) t.notOk(rig.freezer.runs(vm), vm);
    t.same(rig.keeper.state().armed, ['mine', 'gone', 'broken', 'equal']);
    t.same(
      rig.keeper
        .state()
        .held.map((h) => h.vm)
        .sort(),
      ['broken', 'equal', 'gone', 'theirs'],
    );

    await rig.crash();
    await rig.clock.advance(2_000);
    t.ok(rig.freezer.runs('mine'));
    for (const vm of ['gone', 'broken', 'equal']) t.notOk(rig.freezer.runs(vm), `${vm} after a restart`);

    rig.own('broken', 'n1', 3);
    await rig.clock.advance(2_000);
    t.ok(rig.freezer.runs('broken'), 'mended: it goes on');
    t.notOk(rig.freezer.runs('gone'));
    await rig.end();
  },
);

void t.test('a machine of another owner that does not die is never thawed, and stays armed', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  await rig.armed('b');
  rig.freezer.undead.add('a');
  rig.client.partitioned = true;
  await rig.clock.advance(5_000);
  rig.own('a', 'n2', 4);
  rig.client.partitioned = false;
  await rig.clock.advance(3_000);
  t.equal(rig.keeper.state().mode, 'run');
  t.ok(rig.freezer.there.get('a')?.frozen);
  t.ok(rig.freezer.runs('b'));
  t.same(rig.keeper.state().armed, ['a', 'b']);
  await t.rejects(rig.keeper.arm('a', { takeover: [], gen: 1 }), {
    code: 'not-armable',
    message: /held here/,
  });
  rig.freezer.undead.delete('a');
  await rig.clock.advance(2_000);
  t.same(rig.keeper.state().armed, ['b']);
  await rig.end();
});

void t.test(
  'ICE: a takeover record kills; a machine that does not die ends the free pets after a minute',
  async (t) => {
    const rig = new KeeperRig();
    await rig.up();
    await rig.armed('a', { takeover: ['/srv/a.json'] });
    await rig.armed('b', { takeover: ['/srv/b.json'] });
    rig.client.partitioned = true;
    await rig.clock.advance(5_000);
    t.same(rig.freezer.killed, []);
    rig.takeovers.files.set('/srv/b.json', JSON.stringify({ vm: 'b', owner: 'n2', gen: 3, epoch: 1 }));
    await rig.clock.advance(3_000);
    t.same(rig.freezer.killed, [], 'not a higher generation: no proof');
    rig.takeovers.files.set('/srv/a.json', JSON.stringify({ vm: 'a', owner: 'n2', gen: 4, epoch: 1 }));
    await rig.clock.advance(3_000);
    t.same(rig.freezer.killed, ['a']);
    t.same(rig.keeper.state().armed, ['b']);

    rig.freezer.undead.add('b');
    rig.takeovers.files.set('/srv/b.json', JSON.stringify({ vm: 'b', owner: 'n2', gen: 4, epoch: 1 }));
    await rig.clock.advance(55_000);
    t.notOk(rig.watchdog.bitten());
    await rig.clock.advance(15_000);
    t.ok(rig.watchdog.bitten(), 'the watchdog decides');
    await rig.end();
  },
);

void t.test('another epoch: frozen, and no renewal, until the node is admitted to it', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  t.equal(rig.store.epoch, 1, 'a new node joins the epoch it finds');
  await rig.armed('a');
  rig.memory.poke('/flotilla/epoch', '2');
  await rig.clock.advance(30_000);
  t.equal(rig.keeper.state().mode, 'ice');
  t.equal(rig.memory.peek(live), null);
  t.match(rig.keeper.state().text, /epoch 2, this node was admitted to epoch 1/);
  t.notOk(rig.watchdog.bitten());
  rig.memory.poke('/flotilla/admitted/n1', '2');
  await rig.clock.advance(3_000);
  t.equal(rig.keeper.state().mode, 'run');
  t.equal(rig.store.epoch, 2);
  t.ok(rig.freezer.runs('a'));
  await rig.end();
});

void t.test('a dead agent with a dead VM: the lease is given up, until the agent is back', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  await rig.clock.advance(100_000);
  rig.keeper.beat();
  await rig.clock.advance(110_000);
  t.equal(rig.keeper.state().mode, 'run', 'a dead agent alone changes nothing');
  rig.freezer.there.delete('a');
  await rig.clock.advance(30_000);
  t.equal(rig.keeper.state().mode, 'ice');
  t.equal(rig.memory.peek(live), null);
  await rig.clock.advance(60_000);
  t.notOk(rig.watchdog.bitten());
  rig.keeper.beat();
  await rig.clock.advance(2_000);
  t.equal(rig.keeper.state().mode, 'run');
  await rig.end();
});

void t.test('a record that cannot be written ends nothing, and nothing is armed without it', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  rig.store.full = true;
  await rig.clock.advance(20_000);
  t.equal(rig.keeper.state().mode, 'run');
  t.match(rig.keeper.state().text, /record of this boot cannot be written: ENOSPC/);
  t.notOk(rig.watchdog.bitten());
  await t.rejects(rig.keeper.arm('b', { takeover: [], gen: 1 }), { code: 'not-armable', message: /ENOSPC/ });
  await rig.clock.advance(2_000);
  t.same(rig.keeper.state().armed, ['a']);
  rig.client.partitioned = true;
  await rig.clock.advance(4_000);
  t.notOk(rig.freezer.runs('a'), 'it freezes as ever');
  rig.client.partitioned = false;
  await rig.clock.advance(4_000);
  t.ok(rig.freezer.runs('a'));
  rig.store.full = false;
  await rig.clock.advance(2_000);
  t.equal(rig.keeper.state().text, '');
  t.notOk(rig.watchdog.bitten());
  await rig.end();
});

void t.test('refuses to arm, and says why', async (t) => {
  const rig = new KeeperRig();
  const why = async (): Promise<string> =>
    rig.keeper.arm('x', { takeover: [], gen: 1 }).then(
      () => 'armed',
      (e: unknown) => `${(e as { code: string }).code}: ${(e as Error).message}`,
    );
  rig.keeper.start();
  t.match(await why(), /not-armable: .*no good renewal/);
  await rig.clock.advance(200);
  rig.watchdog.timeoutMs = 30_000;
  t.match(await why(), /fires after 30 s, and 5 s are needed/);
  rig.watchdog.kind = 'none';
  t.match(await why(), /no watchdog/);
  rig.memory.poke('/flotilla/policy', '{"ha":{"unsafeWithoutWatchdog":true}}');
  await rig.clock.advance(1_000);
  const unsafe = why();
  await rig.clock.advance(100);
  t.equal(await unsafe, 'armed', 'where the policy says so');
  t.equal(rig.watchdog.pets, 0);
  rig.keeper.disarm('x');
  rig.watchdog.kind = 'hardware';
  rig.watchdog.timeoutMs = 5_000;
  rig.watchdog.broken = true;
  const broken = why();
  await rig.clock.advance(100);
  t.match(await broken, /cannot be petted: device or resource busy/);
  t.same(rig.keeper.state().armed, []);
  rig.watchdog.broken = false;
  rig.client.partitioned = true;
  const cut = why();
  await rig.clock.advance(4_000);
  t.match(await cut, /lost its lease/);
  await rig.end();
});

void t.test(
  'the machine shuts down: with its VMs ended the watchdog stops and the lease goes back',
  async (t) => {
    for (const left of [false, true]) {
      const rig = new KeeperRig();
      await rig.up();
      await rig.armed('a');
      if (!left) rig.freezer.there.delete('a');
      const stopped = rig.keeper.stop({ off: true });
      await rig.clock.advance(1_000);
      await stopped;
      t.equal(rig.watchdog.counts, left, `a machine ${left ? 'is left' : 'is not left'}`);
      t.equal(rig.memory.peek(live) !== null, left);
      t.equal(rig.store.run?.armed.length, left ? 1 : 0);
      rig.memory.close();
    }
  },
);

void t.test('disarmed: never reset, also where the device cannot be stopped', async (t) => {
  const rig = new KeeperRig();
  await rig.up();
  await rig.armed('a');
  rig.keeper.disarm('a');
  t.notOk(rig.watchdog.counts);
  rig.watchdog.nowayout = true;
  await rig.armed('a');
  rig.keeper.disarm('a');
  rig.client.partitioned = true;
  await rig.clock.advance(60_000);
  t.ok(rig.watchdog.counts);
  t.notOk(rig.watchdog.bitten());
  t.notOk(rig.freezer.sliceFrozen, 'and nothing froze');
  rig.client.partitioned = false;
  await rig.clock.advance(10_000);
  await rig.crash();
  await rig.clock.advance(60_000);
  t.notOk(rig.watchdog.bitten(), 'nor after a restart');
  await rig.end();
});

import t from 'tap';
import { opFinished } from '../../core/domain/op.js';
import { World } from './cluster/world.js';
import {
  all,
  atRest,
  boots,
  cluster,
  desired,
  ended,
  goOn,
  ran,
  starts,
  states,
  three,
} from './rolling-world.js';

/**
 * All nodes restart, or are updated, one after the other, under VMs that run: whoever dies meanwhile, no VM stops, no two
 * nodes are away at once, and the operation ends with each node restarted once, or says at which it stopped.
 */

await t.test('all nodes restart, one after the other; VMs move while they run, and none stops', async (t) => {
  const w = await cluster();
  const op = w.rolling();
  const steps = [...(await ended(w, op))];
  t.match(w.op(op), { state: 'done', progress: 1, step: '3 of 3 nodes are done' }, JSON.stringify(w.op(op)));
  t.same(boots(w), [1, 1, 1]);
  t.equal(starts(w), ran.length, 'nothing was started anew');
  t.same(
    all.map((n) => desired(w, n)),
    three,
  );
  t.ok(
    steps.some((s) => /^1 of 3 nodes are done; n\d: \d of \d VMs are away from/.test(s)),
    steps.join('\n'),
  );
  t.ok(steps.some((s) => s.includes('restarts: it is down')));
  await atRest(w);
  t.same(w.checks.violations, []);
  w.end();
});

await t.test(
  'VMs come back where they were, where that was asked for; a node in maintenance stays so',
  async (t) => {
    const w = await cluster();
    w.drain('n3');
    await w.until('n3 is empty', () => w.ops().every(opFinished), 120_000);
    const at = ran.map((name) => w.runsOn(w.vms.get(name) ?? '')[0]);
    const op = w.rolling({ bringBack: true });
    await ended(w, op);
    t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
    t.same(boots(w), [1, 1, 1]);
    t.same(
      ran.map((name) => w.runsOn(w.vms.get(name) ?? '')[0]),
      at,
    );
    t.same(
      all.map((n) => desired(w, n)),
      ['active', 'active', 'maintenance'],
    );
    t.equal(starts(w), ran.length);
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('disks with two copies: the next node waits until they are the same again', async (t) => {
  const w = new World({ seed: 7, nodes: 3, log: true, locks: null, copies: true });
  w.boot();
  const vms = [w.createVm('db', 'n1', {}, 'n3'), w.createVm('mail', 'n2', {}, 'n1')];
  await w.until('both run, with every write on both', () =>
    vms.every((vm) => w.own(vm)?.sync === 'ok' && w.runsOn(vm).length === 1),
  );
  const op = w.rolling();
  let bad = '';
  const off = w.time.afterStep;
  w.time.afterStep = () => {
    off();
    for (const n of w.nodes.values())
      for (const vm of vms)
        if (!n.host.powered && w.runsOn(vm).length === 0) bad = `${vm} stands still while ${n.id} is away`;
  };
  const steps = [...(await ended(w, op))];
  t.equal(bad, '');
  t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
  t.same(boots(w), [1, 1, 1]);
  t.equal(starts(w), 2);
  t.ok(
    steps.some((s) => s.includes('are being made the same')),
    steps.join('\n'),
  );
  await atRest(w);
  t.same(w.checks.violations, []);
  w.end();
});

await t.test(
  'the node that restarts loses its power once more, and its agent does not come to life at first',
  async (t) => {
    const w = await cluster();
    const op = w.rolling({}, ['n2']);
    await w.until('n2 restarts', () => !w.node('n2').host.powered, 300_000);
    await w.until('n2 is back', () => w.node('n2').host.powered, 60_000);
    w.node('n2').powerLoss();
    await w.pass(30_000);
    t.match(w.op(op).step, /n2: restarts: it is down/);
    w.node('n2').powerOn();
    await ended(w, op);
    t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
    t.equal(starts(w), ran.length);
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('a node that is not well when it is back ends it; the way out goes on from there', async (t) => {
  const w = await cluster();
  const op = w.rolling();
  await w.until('one restarts', () => boots(w).includes(1), 300_000);
  const first = all[boots(w).indexOf(1)] ?? '';
  w.pool.unreachable.add(first);
  await ended(w, op);
  t.match(w.op(op), {
    state: 'failed',
    error: {
      message: /n\d is back, and not well: pool/,
      hint: /flotilla rolling resume.* stays in maintenance/,
    },
  });
  t.equal(
    boots(w).reduce((a, b) => a + b, 0),
    1,
    'no other node was touched',
  );
  t.equal(desired(w, first), 'maintenance');
  t.match(states(w, op).sort(), ['settling', 'waiting', 'waiting']);
  w.pool.unreachable.clear();
  const more = goOn(w, op);
  await ended(w, more);
  t.equal(w.op(more).state, 'done', JSON.stringify(w.op(more)));
  t.same(boots(w), [1, 1, 1], 'and that one did not restart again');
  t.same(
    all.map((n) => desired(w, n)),
    three,
  );
  t.same(w.checks.violations, []);
  w.end();
});

await t.test(
  'a voter does not go while another one is not well, also where that happens at the last moment',
  async (t) => {
    const w = await cluster();
    const back = w.voters.stop('n2');
    const op = w.rolling({}, ['n1', 'n3']);
    await w.pass(60_000);
    t.match(w.op(op).step, /0 of 2 nodes are done; waits: n\d: it votes, and voter n2 does not answer/);
    await ended(w, op);
    t.match(w.op(op), { state: 'failed', error: { message: /No further node can go: n\d: it votes/ } });
    t.same(boots(w), [0, 0, 0]);
    back();
    const more = goOn(w, op);
    await w.until('one is emptied', () => states(w, more).includes('emptying'), 60_000);
    const again = w.voters.stop('n2');
    await ended(w, more);
    t.match(w.op(more), {
      state: 'failed',
      error: { message: /has not restarted: n\d does not restart: it votes/ },
    });
    t.same(boots(w), [0, 0, 0]);
    again();
    const last = goOn(w, more);
    await ended(w, last);
    t.equal(w.op(last).state, 'done', JSON.stringify(w.op(last)));
    t.same(boots(w), [1, 0, 1]);
    t.same(
      all.map((n) => desired(w, n)),
      three,
    );
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test(
  'it is paused after the node under way, goes on, and is cancelled while a node is emptied',
  async (t) => {
    const w = await cluster();
    const op = w.rolling();
    await w.until('one is emptied', () => states(w, op).includes('emptying'), 60_000);
    w.rollingArgs(op, { paused: true });
    await w.until('it pauses', () => w.op(op).step === '1 of 3 nodes are done; paused', 300_000);
    await w.pass(60_000);
    t.equal(
      boots(w).reduce((a, b) => a + b, 0),
      1,
    );
    w.rollingArgs(op, { paused: false });
    await w.until('the next is emptied', () => states(w, op).includes('emptying'), 60_000);
    w.cancel(op);
    await ended(w, op);
    t.equal(w.op(op).state, 'cancelled', JSON.stringify(w.op(op)));
    t.same(states(w, op).sort(), ['done', 'waiting', 'waiting'], 'nor does it count as done');
    t.equal(
      boots(w).reduce((a, b) => a + b, 0),
      1,
      'that one did not restart',
    );
    t.same(
      all.map((n) => desired(w, n)),
      three,
    );
    t.equal(starts(w), ran.length);
    await atRest(w);
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('all nodes are updated; an image that does not get well ends it at the first', async (t) => {
  for (const broken of [false, true]) {
    const w = await cluster();
    for (const n of w.nodes.values()) {
      n.host.slots = { booted: 'a', good: 'a', onTrial: null };
      n.host.slotBroken = broken;
    }
    const op = w.rolling({ work: 'update', image: w.appliance() });
    const steps = [...(await ended(w, op))];
    const booted = [...w.nodes.values()].map((n) => n.host.slots?.booted);
    if (broken) {
      t.match(w.op(op), {
        state: 'failed',
        error: { message: /n\d was not updated: n\d went back to slot a/ },
      });
      t.same(booted, ['a', 'a', 'a']);
      t.equal(
        boots(w).reduce((a, b) => a + b, 0),
        1,
      );
    } else {
      t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
      t.same(booted, ['b', 'b', 'b']);
      t.ok(
        steps.some((s) => s.includes('slot b is written')),
        steps.join('\n'),
      );
    }
    t.equal(starts(w), ran.length);
    t.same(w.checks.violations, []);
    w.end();
  }
});

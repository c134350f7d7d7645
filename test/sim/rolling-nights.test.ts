import t from 'tap';
import { opFinished } from '../../core/domain/op.js';
import { bootMs } from './cluster/node.js';
import { Rng } from './cluster/rng.js';
import { all, atRest, boots, cluster, desired, ended, goOn, ran, starts } from './rolling-world.js';

/** Restarts of all nodes in turn, with deaths of agents at each act, and nights by seed. @see rolling.test.ts */

for (const who of all) {
  await t.test(`the agent of ${who} dies at each of its acts`, async (t) => {
    const whole = await cluster();
    const before = whole.node(who).agent?.acts ?? 0;
    // A restart begins to count anew.
    let acts = 0;
    const op = whole.rolling();
    await whole.until(
      'the op ends',
      () => {
        const { agent, host } = whole.node(who);
        if (host.boots === 0 && agent !== null) acts = agent.acts - before;
        return opFinished(whole.op(op));
      },
      300_000,
    );
    whole.end();
    let nights = 0;
    for (let n = 0; n < acts; n += Math.max(1, Math.ceil(acts / 5))) {
      for (const when of ['before', 'after'] as const) {
        const w = await cluster();
        w.node(who).dieAt('agent', n, when);
        const mine = w.rolling();
        await ended(w, mine);
        await atRest(w);
        nights++;
        const once = ran.every((name) => w.runsOn(w.vms.get(name) ?? '').length === 1);
        const well = w.op(mine).state === 'done' && boots(w).join() === '1,1,1' && starts(w) === ran.length;
        if (!well || !once || w.checks.violations.length > 0) {
          t.fail(
            `act ${n} ${when}: ${JSON.stringify(w.op(mine))}, boots ${boots(w).join()}, starts ${starts(w)}`,
          );
          t.same(w.checks.violations, []);
          t.comment(w.lines.slice(-80).join('\n'));
        }
        w.end();
      }
    }
    t.ok(nights > 4, `${nights} nights of ${acts} acts`);
  });
}

await t.test(
  'bad nights by seed: whatever fails meanwhile, it ends, and the way out leads to its end',
  async (t) => {
    const ends = new Map<string, number>();
    for (let seed = 1; seed <= 8; seed++) {
      const w = await cluster({ seed });
      const rng = new Rng(seed * 7919);
      let op = w.rolling({ bringBack: rng.below(2) === 0 });
      for (let n = rng.between(1, 4); n > 0; n--) {
        const node = w.node(rng.pick(all));
        w.time.after(rng.between(500, 90_000), () => {
          const bad = rng.below(4);
          w.say(`the night: ${bad} to ${node.id}`);
          if (bad === 0) node.kill('agent');
          else if (bad === 1) node.kill('keeper');
          else if (bad === 2) node.stallAll(rng.between(1_000, 8_000));
          else {
            node.powerLoss();
            w.time.after(rng.between(bootMs, 90_000), () => node.powerOn());
          }
        });
      }
      await ended(w, op, { away: 3, limitMs: 3_600_000 });
      await w.pass(200_000);
      for (let tries = 0; w.op(op).state !== 'done'; tries++) {
        ends.set(w.op(op).error?.message ?? '?', seed);
        if (tries === 3)
          throw new Error(`seed ${seed}: ${JSON.stringify(w.op(op))}\n${w.lines.slice(-80).join('\n')}`);
        op = goOn(w, op);
        await ended(w, op, { away: 1, limitMs: 3_600_000 });
      }
      await atRest(w);
      const once = ran.every((name) => w.runsOn(w.vms.get(name) ?? '').length === 1);
      const well = once && boots(w).every((n) => n > 0) && all.every((n) => desired(w, n) === 'active');
      if (!well || w.checks.violations.length > 0) {
        t.fail(`seed ${seed}: ${JSON.stringify(w.op(op))}, boots ${boots(w).join()}`);
        t.same(w.checks.violations, []);
        t.comment(w.lines.slice(-120).join('\n'));
      }
      w.end();
    }
    t.pass(`stopped on the way by: ${JSON.stringify([...ends])}`);
  },
);

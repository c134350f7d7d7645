import t from 'tap';
import { drainArgs } from '../../core/domain/drain.js';
import { opFinished } from '../../core/domain/op.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';

/**
 * A node is emptied while agents die at each of their acts, before and after the act took effect, and while whole nodes
 * go. In the end each VM runs once, elsewhere, and was not stopped for it.
 */

interface Night {
  readonly w: World;
  readonly vms: readonly string[];
  readonly op: string;
  /** Acts of the agent that was to die between the wish and the end. */
  readonly acts: number;
}

async function cluster(seed = 7): Promise<{ w: World; vms: string[] }> {
  const w = new World({ seed, nodes: 3, log: true, locks: null });
  w.boot();
  const vms = ['web', 'db', 'mail'].map((name) => w.createVm(name, 'n1'));
  vms.push(
    w.createVm('off', 'n1', { power: 'stopped' }),
    w.createVm('bare', 'n1', { ha: { enabled: false } as never }),
  );
  await w.until('all run, protected', () =>
    ['web', 'db', 'mail'].every((name) => {
      const vm = w.vms.get(name) ?? '';
      return w.runsOn(vm)[0] === 'n1' && w.own(vm)?.standby !== null;
    }),
  );
  await w.pass(2_000);
  return { w, vms };
}

async function night(
  who: string,
  death: { readonly n: number; readonly when: Death['when'] } | null,
): Promise<Night> {
  const { w, vms } = await cluster();
  const node = w.node(who);
  const before = node.agent?.acts ?? 0;
  if (death !== null) node.dieAt('agent', death.n, death.when);
  const op = w.drain('n1');
  await w
    .until('the op ends', () => opFinished(w.op(op)), 300_000)
    .catch((e: unknown) => {
      const last = w.lines.slice(-40).join('\n');
      throw new Error(`${who} ${JSON.stringify(death)}: ${JSON.stringify(w.op(op))}\n${last}`, { cause: e });
    });
  const acts = (node.agent?.acts ?? 0) - before;
  await w.until('it rests', () => w.checks.resting(), 60_000);
  await w.pass(15_000);
  w.checks.atRest();
  return { w, vms, op, acts };
}

const starts = (w: World): number =>
  [...w.nodes.values()].reduce((sum, n) => sum + n.host.libvirt.starts.length, 0);
const ran = ['web', 'db', 'mail', 'bare'];

function emptied(w: World): boolean {
  return [...w.vms.values()].every((vm) => w.own(vm)?.owner !== 'n1');
}

await t.test(
  'a node is emptied: what runs migrates, what is off gets another owner, and all comes back',
  async (t) => {
    const { w, op } = await night('n1', null);
    t.same(w.checks.violations, []);
    t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
    t.ok(emptied(w));
    t.equal(starts(w), ran.length, 'nothing was started anew');
    t.equal(w.node('n1').host.libvirt.domains.size, 0, 'nothing is left where it was');
    t.equal(w.checks.seen.filter((s) => s.what === 'migrate').length, ran.length);
    t.same(
      drainArgs(w.op(op))?.vms.map((x) => x.state),
      ['moved', 'moved', 'moved', 'moved', 'moved'],
    );
    const back = w.drain('n1', { back: op });
    await w.until('all is back', () => opFinished(w.op(back)), 300_000);
    t.equal(w.op(back).state, 'done', JSON.stringify(w.op(back)));
    t.ok([...w.vms.values()].every((vm) => w.own(vm)?.owner === 'n1'));
    t.equal(starts(w), ran.length, 'nor on the way back');
    t.same(w.checks.violations, []);
    w.end();
  },
);

await t.test('VMs with two copies go to the other one, running or off, and back', async (t) => {
  const w = new World({ seed: 7, nodes: 3, log: true, locks: null, copies: true });
  w.boot();
  const [db, off] = [w.createVm('db', 'n1', {}, 'n3'), w.createVm('off', 'n1', { power: 'stopped' }, 'n2')];
  await w.until('both have every write', () => [db, off].every((vm) => w.own(vm)?.sync === 'ok'));
  const op = w.drain('n1');
  await w.until('the op ends', () => opFinished(w.op(op)), 120_000);
  t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
  t.same([w.own(db)?.owner, w.own(off)?.owner], ['n3', 'n2']);
  t.match(w.own(off), {
    standby: 'n1',
    sync: 'ok',
    state: 'stopped',
    copies: [{ node: 'n2' }, { node: 'n1' }],
  });
  w.action('start', off);
  await w.until('it runs on its other copy', () => w.runsOn(off)[0] === 'n2');
  const back = w.drain('n1', { back: op });
  await w.until('all is back', () => opFinished(w.op(back)), 120_000);
  t.equal(w.op(back).state, 'done', JSON.stringify(w.op(back)));
  t.same([w.runsOn(db), w.runsOn(off)], [['n1'], ['n1']]);
  t.equal(starts(w), 2, 'each was started once, when somebody asked for it');
  await w.pass(15_000);
  w.checks.atRest();
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('it is cancelled: what moves stays or goes, the rest stays, and the op says so', async (t) => {
  const { w } = await cluster();
  const op = w.drain('n1');
  await w.until('two move', () => w.checks.seen.filter((s) => s.what === 'migrate').length === 2);
  w.cancel(op);
  await w.until('the op ends', () => opFinished(w.op(op)), 120_000);
  t.equal(w.op(op).state, 'cancelled');
  t.equal(w.checks.seen.filter((s) => s.what === 'migrate').length, 2, 'no more was begun');
  t.equal(starts(w), ran.length);
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('a node is to leave: it does so when it is empty', async (t) => {
  const { w } = await cluster();
  const op = w.drain('n1', { leave: true });
  await w.until('the op ends', () => opFinished(w.op(op)), 300_000);
  t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
  const record = JSON.parse(w.voters.store.peek('/flotilla/node/n1')?.value ?? '{}') as { desired?: string };
  t.equal(record.desired, 'leaving');
  t.ok(emptied(w));
  w.end();
});

await t.test('whose a VM is cannot be read: the node is not called empty', async (t) => {
  const { w, vms } = await cluster();
  const key = `/flotilla/vm/${vms[4]}/own`;
  const own = w.voters.store.peek(key)?.value ?? '';
  w.voters.store.poke(key, JSON.stringify({ ...(JSON.parse(own) as object), syncEpoch: 'x' }));
  const op = w.drain('n1', { leave: true });
  await w.until(
    'the others are away',
    () => /^4 of 4.*of 1 the owner cannot be read/.test(w.op(op).step),
    300_000,
  );
  await w.pass(10_000);
  t.equal(w.op(op).state, 'running');
  w.voters.store.poke(key, own);
  await w.until('the op ends', () => opFinished(w.op(op)), 300_000);
  t.equal(w.op(op).state, 'done');
  t.ok(emptied(w));
  t.same(w.checks.violations, []);
  w.end();
});

await t.test(
  'what is off and has a disk that could not be made keeps a node from leaving, in words',
  async (t) => {
    const { w } = await cluster();
    const [key = '', disk] =
      w.voters.store
        .peekAll('/flotilla/disk/')
        .map((e) => [e.key, JSON.parse(e.value) as { vm: string }] as const)
        .find(([, d]) => d.vm === w.vms.get('off')) ?? [];
    const error = { code: 'not-found', message: 'its image is gone', hint: 'h', causes: [] };
    w.voters.store.poke(key, JSON.stringify({ ...disk, state: 'failed', error }));
    const calm = w.drain('n1');
    await w.until('it is empty but for that', () => opFinished(w.op(calm)), 300_000);
    t.match(w.op(calm), { state: 'done' }, 'which rests');
    const op = w.drain('n1', { leave: true });
    await w.until('the op ends', () => opFinished(w.op(op)), 300_000);
    t.match(w.op(op), { state: 'failed', error: { code: 'in-use', message: /"off": its image is gone/ } });
    w.edit(w.vms.get('off') ?? '', { power: 'running' });
    const runs = w.drain('n1');
    await w.until('that op ends', () => opFinished(w.op(runs)), 300_000);
    t.match(w.op(runs), { state: 'failed' }, 'it is to run, and would as soon as it can');
    t.same(w.checks.violations, []);
    w.end();
  },
);

for (const leave of [false, true])
  await t.test(
    `VMs on their way to a node that is to be ${leave ? 'left' : 'emptied'} stay, or are taken on from there`,
    async (t) => {
      let [arrived, stayed] = [0, 0];
      for (const afterMs of [0, 500, 1_700, 3_000, 3_050, 3_110, 3_170, 3_230, 3_290, 3_400, 6_000]) {
        const { w } = await cluster();
        const web = w.vms.get('web') ?? '';
        const move = w.migrate(web, 'n2');
        await w.pass(afterMs);
        const op = w.drain('n2', { leave });
        await w.until('the op ends', () => opFinished(w.op(op)), 300_000);
        const owned = (): boolean => [...w.vms.values()].some((vm) => w.own(vm)?.owner === 'n2');
        t.notOk(owned(), `after ${afterMs} ms: ${w.op(op).state} ${w.op(op).step}`);
        await w.until('so does the migration', () => opFinished(w.op(move)), 300_000);
        const sent = w.checks.seen.some((x) => x.what === 'migrate');
        if (afterMs === 0) t.notOk(sent, 'it is not even begun');
        await w.pass(15_000);
        t.notOk(owned(), `after ${afterMs} ms, later on`);
        t.equal(w.runsOn(web).length, 1);
        t.equal(w.op(op).state, 'done');
        if (w.op(move).state === 'done') arrived++;
        else stayed++;
        t.same(w.checks.violations, []);
        w.end();
      }
      t.ok(arrived > 0 && stayed > 0, `${arrived} had arrived, ${stayed} stayed`);
    },
  );

for (const who of ['n1', 'n2', 'n3']) {
  await t.test(`the agent of ${who} dies at each of its acts`, async (t) => {
    const whole = await night(who, null);
    whole.w.end();
    const acts = Math.min(whole.acts, 240);
    let nights = 0;
    for (let n = 0; n < acts; n += who === 'n1' ? 7 : 24) {
      for (const when of ['before', 'after'] as const) {
        const { w, op } = await night(who, { n, when });
        nights++;
        const once = ran.every((name) => w.runsOn(w.vms.get(name) ?? '').length === 1);
        // A migration that its source's agent leaves behind is broken off, and tried again.
        const well = w.checks.violations.length === 0 && once && emptied(w) && w.op(op).state === 'done';
        if (!well) {
          t.fail(`act ${n} ${when}: ${w.op(op).state} ${w.op(op).step} ${JSON.stringify(w.op(op).error)}`);
          t.same(w.checks.violations, []);
          t.comment(JSON.stringify(w.op(op).args));
          t.comment(w.lines.slice(-60).join('\n'));
        }
        if (starts(w) !== ran.length) t.fail(`act ${n} ${when}: ${starts(w)} starts`);
        w.end();
      }
    }
    t.ok(nights > 4, `${nights} nights`);
  });
}

await t.test('the node that is emptied loses its power: its VMs fail over, and it is empty', async (t) => {
  const { w } = await cluster();
  const op = w.drain('n1');
  await w.pass(1_500);
  w.node('n1').powerLoss();
  await w.until('those with HA run elsewhere', () =>
    ['web', 'db', 'mail'].every((name) => !['n1', undefined].includes(w.runsOn(w.vms.get(name) ?? '')[0])),
  );
  w.node('n1').powerOn();
  await w.until('the op ends', () => opFinished(w.op(op)), 300_000);
  t.equal(w.op(op).state, 'done', JSON.stringify(w.op(op)));
  t.ok(emptied(w));
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('a VM in lockstep goes to its twin; twins on the node are made elsewhere', async (t) => {
  const w = new World({ seed: 11, nodes: 3, lockstep: true, log: true });
  w.boot();
  const vm = w.createLockstep('web', 'n1');
  const isProtected = (): boolean => w.own(vm)?.lockstep?.state === 'protected';
  await w.until('it is protected', isProtected);
  await w.pass(5_000);
  const twin = w.own(vm)?.lockstep?.twin ?? '';
  const starts = (): number => [...w.nodes.values()].reduce((n, x) => n + x.host.libvirt.starts.length, 0);
  const first = w.drain('n1');
  await w.until('n1 is empty', () => opFinished(w.op(first)), 120_000);
  t.match(w.op(first), { state: 'done' });
  t.match(drainArgs(w.op(first))?.vms, [{ vm, state: 'moved', to: twin }]);
  t.same(w.runsOn(vm), [twin]);
  await w.until('it is protected again', isProtected, 120_000);
  const second = w.own(vm)?.lockstep?.twin ?? '';
  t.not(second, 'n1', 'which is in maintenance');
  const back = w.drain('n1', { back: first });
  await w.until('n1 is active again', () => opFinished(w.op(back)), 120_000);
  t.match(w.op(back), { state: 'done' }, 'nothing is fetched back');
  const other = w.drain(second);
  await w.until('no twin is there', () => opFinished(w.op(other)), 120_000);
  t.match(w.op(other), { state: 'done' });
  await w.until('it is protected again', isProtected, 120_000);
  t.equal(w.own(vm)?.lockstep?.twin, 'n1');
  t.same(w.runsOn(vm), [twin], 'it stayed where it was');
  t.equal(starts(), 1, 'it was started once');
  t.same(w.checks.violations, []);
  w.end();
});

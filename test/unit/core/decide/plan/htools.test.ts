import { readFileSync } from 'node:fs';
import t from 'tap';
import { balance } from '../../../../../core/decide/plan/balance.js';
import { descend } from '../../../../../core/decide/plan/descent.js';
import { planJson, readHtools, readUtil, type LoadMode } from '../../../../../core/decide/plan/htools.js';
import { State } from '../../../../../core/decide/plan/state.js';
import { Replay } from './replay.js';

const file = (name: string): string => readFileSync(`test/fixtures/htools/${name}`, 'utf8');
const read = (name: string, mode: LoadMode, dead: string[] = []) =>
  readHtools(file(`${name}.data`), mode, readUtil(file(`${name}.util`)), new Set(dead));

/** Printed by hbal of ganeti-htools 3.0.2-3: `hbal -t FILE -v`, with `--ignore-dynu`, with `-U`. */
const hbal: readonly [string, LoadMode, before: number, after: number][] = [
  ['uneven', 'default', 10.16796359, 0.68080632],
  ['uneven', 'ignore-dynu', 0.9102499, 0.34432979],
  ['uneven', 'util', 1.31551568, 0.52781337],
  ['racks', 'default', 23.16796359, 1.58586804],
  ['racks', 'ignore-dynu', 13.9102499, 1.36924387],
  ['racks', 'util', 14.31551568, 1.56495681],
  ['drain', 'default', 143.04031922, 0.63285595],
  ['drain', 'ignore-dynu', 136.8941206, 0.24112238],
  ['drain', 'util', 137.2935522, 0.3981766],
];

await t.test('the imbalance is the one hbal prints, at the start and where its descent ends', async (t) => {
  for (const [name, mode, before, after] of hbal) {
    const s = new State(read(name, mode));
    t.ok(Math.abs(s.score() - before) < 1e-8, `${name} ${mode} starts at ${before}`);
    const walk = descend(s, 1e9);
    t.ok(Math.abs(walk.score - after) < 1e-8, `${name} ${mode} ends at ${after}, ours ${walk.score}`);
    t.ok(Math.abs(s.score() - before) < 1e-8, 'and the state is put back');
  }
});

await t.test('plans end no worse than hbal, copy no more, and each step is legal', async (t) => {
  for (const [name, mode, before, after] of hbal) {
    const cluster = read(name, mode);
    const plan = balance(cluster);
    const replay = new Replay(cluster);
    for (const step of plan.steps) t.same(replay.step(step), [], `${name} ${mode}`);
    t.ok(Math.abs(plan.before - before) < 1e-8);
    t.ok(plan.after <= after + 1e-8, `${name} ${mode}: ${plan.after} against ${after}`);
    t.ok(
      plan.cost.diskMiB <= descend(new State(cluster), 1e9).diskMiB,
      'no more disk than the descent copies',
    );
    t.equal(plan.cost.diskMiB, replay.copiedMiB);
    const end = { ...cluster, vms: cluster.vms.map((v) => ({ ...v, ...replay.at.get(v.name) })) };
    t.ok(Math.abs(new State(end).score() - plan.after) < 1e-8, 'the end is what the plan says');
  }
});

await t.test('from a dead node nothing is copied', async (t) => {
  const cluster = read('drain', 'util', ['ada']);
  t.equal(cluster.nodes.find((n) => n.name === 'ada')?.state, 'dead');
  const plan = balance(cluster);
  const replay = new Replay(cluster);
  for (const step of plan.steps) t.same(replay.step(step), []);
  t.ok([...replay.at.values()].every((w) => w.owner !== 'ada' && w.standby !== 'ada'));
});

await t.test('a plan in the words of htools', async (t) => {
  const cluster = read('drain', 'default');
  const json = planJson('default', cluster, balance(cluster));
  t.equal(json.final.length, cluster.vms.length);
  t.ok(json.moves.length > 0 && json.moves.every((m) => m.ops.every((o) => /^(f|r:\w+)$/.test(o))));
});

await t.test('what cannot be read is refused with its line', async (t) => {
  const good = file('uneven.data');
  const broken: [string, string, RegExp][] = [
    ['a number that is none', good.replace('|24|N|', '|many|N|'), /line 3: column 7 .* "many"/],
    ['a number beyond all bounds', good.replace('ada|65536', 'ada|1e400'), /line 3: column 2/],
    ['a role', good.replace('|24|N|', '|24|Q|'), /line 3: the role is "Q"/],
    ['a disk that is not replicated', good.replace('|drbd|', '|plain|'), /kind "plain"/],
    ['a stopped VM', good.replace('|running|', '|ADMIN_down|'), /is "ADMIN_down"/],
    ['a node nobody knows', good.replace('|ada|cleo|', '|eve|cleo|'), /is on eve/],
    ['one node twice', good.replace('|ada|cleo|', '|ada|ada|'), /both replicas on ada/],
    ['two nodes of one name', good.replace('\nben|', '\nada|'), /two nodes have one name/],
    ['too few sections', good.split('\n\n')[0] ?? '', /sections/],
    ['too few columns', good.replace(/^ada\|.*$/m, 'ada|1'), /line 3: has 2 columns/],
    [
      'a tag that changes what is legal',
      good.replace('\n\n\n', '\n\nhtools:migration:x\n\n'),
      /not supported/,
    ],
    ['nothing', '', /sections/],
  ];
  for (const [what, text, message] of broken) {
    t.throws(
      () => new State(readHtools(text, 'default', new Map(), new Set())),
      { code: 'bad-input', message },
      what,
    );
  }
  t.throws(() => read('uneven', 'default', ['ada']), { code: 'bad-input' }, 'an online node is not dead');
  t.throws(() => read('uneven', 'default', ['zed']), { code: 'bad-input' });
  t.throws(() => readUtil('web1 0.1 0.2 0.3\n'), { code: 'bad-input' });
  t.throws(() => readUtil('web1 0.1 0.2 0.3 -1\n'), { code: 'bad-input' });
});

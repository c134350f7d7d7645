import t from 'tap';
import { runScenario, scenarios } from './scenario.js';

/** Every file of `test/sim/scenarios` is a sentence about the cluster. `scenarios.test.js NAME..` runs only those. */
const all = scenarios(process.argv.slice(2));
t.ok(all.length > 0, 'the scenarios are there');

for (const { name, variants } of all) {
  await t.test(name.replaceAll('-', ' '), async (t) => {
    for (const v of variants) {
      const r = await runScenario(v.scenario);
      t.same(r.faults, [], `${name}${v.name}`);
      if (r.faults.length > 0) t.comment(['what happened:', ...r.shown, 'all of it:', ...r.all].join('\n'));
    }
  });
}

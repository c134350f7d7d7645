import t from 'tap';
import { runMutations } from './cluster/run.js';

/** Safety rules switched off one by one: some checker must cry, and must not where the rule holds. docs/simulator.md */
for (const m of await runMutations(process.argv.slice(2))) {
  await t.test(m.rule, async (t) => {
    t.same(m.without, [], `${m.name}: while the rule holds nothing is broken`);
    if (!t.ok(m.found, `${m.name}: ${m.found ?? 'nothing was seen without the rule'}`))
      t.comment(m.lines.slice(-60).join('\n'));
  });
}

import { runSchedule } from './schedule.js';

/** One schedule with its log: `one.js SEED [NODES]`. */
const [seed = 0, nodes = 0] = process.argv.slice(2).map(Number);
const o = await runSchedule({ seed, log: true, ...(nodes > 0 ? { nodes } : {}) });
process.stdout.write(`${o.log.join('\n')}\n${JSON.stringify(o.violations, null, 2)}\n`, () =>
  process.exit(o.violations.length === 0 ? 0 : 1),
);

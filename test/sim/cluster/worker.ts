import { addOutcome, emptySummary } from './summary.js';
import { runSchedule } from './schedule.js';

/**
 * Runs schedules in a process of its own: `worker.js FIRST COUNT STEP [NODES]`, and prints the summary as JSON. With
 * FLOTILLA_SIM_UNTIL it stops at the first violation.
 */
const [first = 0, count = 1, step = 1, nodes = 0] = process.argv.slice(2).map(Number);
Error.stackTraceLimit = 0;
const summary = emptySummary();
for (let i = 0; i < count; i++) {
  const outcome = await runSchedule({ seed: first + i * step, ...(nodes > 0 ? { nodes } : {}) });
  addOutcome(summary, outcome);
  if (process.env['FLOTILLA_SIM_UNTIL'] === 'violation' && outcome.violations.length > 0) break;
  if (process.stderr.isTTY && i % 20 === 19) process.stderr.write(`\r${i + 1} of ${count} `);
}
const use = process.cpuUsage();
summary.coreSeconds = Math.round((use.user + use.system) / 1e4) / 100;
process.stdout.write(JSON.stringify(summary), () => process.exit(0));

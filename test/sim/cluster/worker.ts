import { addOutcome, emptySummary } from './summary.js';
import { runSchedule } from './schedule.js';

/**
 * Runs schedules in a process of its own: `worker.js FIRST COUNT STEP [NODES]`, and prints the summary as JSON. With
 * FLOTILLA_SIM_UNTIL it stops at the first violation.
 */
const [first = 0, count = 1, step = 1, nodes = 0] = process.argv.slice(2).map(Number);
Error.stackTraceLimit = 0;
const progressEveryMs = 60_000;
let saidMs = Date.now();
const summary = emptySummary();
for (let i = 0; i < count; i++) {
  const outcome = await runSchedule({ seed: first + i * step, ...(nodes > 0 ? { nodes } : {}) });
  addOutcome(summary, outcome);
  // At once: a long run is looked at while it lasts.
  for (const v of outcome.violations.slice(0, 1))
    process.stderr.write(`seed ${outcome.seed}, ${outcome.nodes} nodes: ${v.promise}: ${v.text}\n`);
  if (process.env['FLOTILLA_SIM_UNTIL'] === 'violation' && outcome.violations.length > 0) break;
  if (Date.now() - saidMs < progressEveryMs) continue;
  saidMs = Date.now();
  process.stderr.write(`${i + 1} of ${count} schedules of the worker that began with seed ${first}\n`);
}
const use = process.cpuUsage();
summary.coreSeconds = Math.round((use.user + use.system) / 1e4) / 100;
process.stdout.write(JSON.stringify(summary), () => process.exit(0));

import { parseArgs } from 'node:util';
import { mutations } from './mutations.js';
import { runMutations, runSchedules } from './run.js';
import { aims } from './schedule.js';
import { emptyCells } from './summary.js';

/** What `scripts/sim` runs: prints the summary as JSON; exit code 1 when a promise was broken. */
const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100' },
    nodes: { type: 'string', default: '0' },
    first: { type: 'string', default: '1' },
    mutations: { type: 'boolean', default: false },
    mutation: { type: 'string', multiple: true, default: [] },
  },
});
if (values.mutations || values.mutation.length > 0) {
  const strange = values.mutation.find((name) => !mutations.some((m) => m.name === name));
  if (strange !== undefined) {
    console.error(
      `scripts/sim: there is no mutation "${strange}"; there are: ${mutations.map((m) => m.name).join(', ')}`,
    );
    process.exit(2);
  }
  const all = await runMutations(values.mutations ? [] : values.mutation);
  console.log(
    JSON.stringify(
      all.map(({ lines: _, ...rest }) => rest),
      null,
      2,
    ),
  );
  process.exit(all.every((m) => m.found !== null && m.without.length === 0) ? 0 : 1);
}
const number = (name: string, text: string, least: number): number => {
  const n = Number(text);
  if (Number.isSafeInteger(n) && n >= least) return n;
  console.error(`scripts/sim: --${name} takes a whole number from ${least} on, not "${text}"`);
  process.exit(2);
};
const nodes = number('nodes', values.nodes, 0);
if (nodes !== 0 && (nodes < 3 || nodes > 7)) {
  console.error('scripts/sim: a simulated cluster has 3 to 7 nodes');
  process.exit(2);
}
const summary = await runSchedules({
  first: number('first', values.first, 0),
  count: number('seeds', values.seeds, 1),
  nodes,
});
const perCore = Math.round(summary.simulatedSeconds / summary.coreSeconds);
console.log(
  JSON.stringify(
    { ...summary, simulatedSecondsPerCoreSecond: perCore, emptyCells: emptyCells(summary) },
    null,
    2,
  ),
);
/** So many rounds over all pairs of transition and fault leave none out, unless the simulator has gone blind. */
const roundsThatCover = 10;
if (nodes === 0 && summary.schedules >= aims.length * roundsThatCover && emptyCells(summary).length > 0) {
  console.error(`nothing was seen of: ${emptyCells(summary).join(', ')}`);
  process.exitCode = 1;
}
if (summary.failures.length > 0) {
  const [first] = summary.failures;
  console.error(`a promise was broken; look at it: scripts/sim --log ${first?.seed} ${first?.nodes}`);
  process.exitCode = 1;
}

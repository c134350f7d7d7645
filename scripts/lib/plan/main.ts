import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { balance } from '../../../core/decide/plan/balance.js';
import { planJson, readHtools, readUtil, type LoadMode } from '../../../core/decide/plan/htools.js';
import { FlotillaError, errorRecord } from '../../../core/domain/error.js';

const usage =
  'scripts/plan --htools FILE [--util FILE] [--mode default|ignore-dynu|util] [--dead NODE]... [--stats]';

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new FlotillaError('not-found', `cannot read ${file}`, { cause, hint: usage });
  }
}

function options() {
  try {
    return parseArgs({
      options: {
        htools: { type: 'string' },
        util: { type: 'string' },
        mode: { type: 'string' },
        dead: { type: 'string', multiple: true },
        stats: { type: 'boolean' },
      },
    }).values;
  } catch (cause) {
    throw new FlotillaError('bad-input', 'these options are not understood', { cause, hint: usage });
  }
}

function modeOf(mode: string | undefined, util: string | undefined): LoadMode {
  const m = mode ?? (util === undefined ? 'default' : 'util');
  if (m !== 'default' && m !== 'ignore-dynu' && m !== 'util')
    throw new FlotillaError('bad-input', `there is no mode "${m}"`, { hint: usage });
  return m;
}

/** Prints a plan for a cluster in htools' text format. */
function main(): void {
  const o = options();
  if (o.htools === undefined) throw new FlotillaError('bad-input', 'which cluster?', { hint: usage });
  const mode = modeOf(o.mode, o.util);
  const loads = o.util ?? o.htools.replace(/\.data$/, '.util');
  const util = mode === 'util' ? readUtil(read(loads)) : new Map<string, never>();
  const cluster = readHtools(read(o.htools), mode, util, new Set(o.dead ?? []));
  const plan = balance(cluster);
  process.stdout.write(`${JSON.stringify(planJson(mode, cluster, plan))}\n`);
  if (o.stats === true)
    process.stderr.write(
      `imbalance ${plan.before.toFixed(4)} -> ${plan.after.toFixed(4)}, ${plan.steps.length} steps, ` +
        `${Math.round(plan.cost.diskMiB / 1024)} GiB of disk, ${Math.round(plan.cost.memoryMiB / 1024)} GiB of memory\n`,
    );
}

try {
  main();
} catch (e) {
  const { message, hint } = errorRecord(e);
  process.stderr.write(`plan: ${message}\n      ${hint}\n`);
  process.exitCode = 1;
}

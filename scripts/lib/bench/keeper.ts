import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CgroupFreezer, haSlice } from '../../../agent/keeper/freezer.js';
import type { Drills } from '../../../test/lab/drill.js';
import { cgroupOf, leaderOf } from './lab-node.js';
import { cpuSecondsOf, memoryOf } from './process.js';
import { median, percentile, report, round, say } from './report.js';

const node = 'n2';
const guests = 10;

/** So many witnesses on one node; each writes, flushes and talks five times a second, emulated. */
async function busy(d: Drills): Promise<void> {
  for (let i = 1; i <= guests; i++) {
    const name = `busy-${i}`;
    if (d.ids.has(name)) continue;
    say(`guest ${i} of ${guests} on ${node}`);
    await d.witness(name, node);
  }
}

/** CPU time of a group, s. */
const cpuOf = (dir: string): number =>
  Number(/^usage_usec (\d+)$/m.exec(readFileSync(path.join(dir, 'cpu.stat'), 'utf8'))?.[1] ?? 0) / 1e6;

/** The keeper's own freezer on a node's slice with ten guests at work: from the order to "nothing moves" verified. */
export async function freeze(d: Drills, rounds: number): Promise<void> {
  await busy(d);
  const base = await cgroupOf(d.lab, node, 'machine.slice');
  const slice = path.join(base, haSlice);
  const freezer = new CgroupFreezer({ base });
  const here = (await freezer.machines()).filter((m) => m.inSlice).length;
  if (here < guests) throw new Error(`${here} of ${guests} guests are in ${slice}`);
  const began = { ms: performance.now(), cpuS: cpuOf(slice) };
  const tookMs: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const startMs = performance.now();
    const faults = await freezer.freeze([]);
    tookMs.push(performance.now() - startMs);
    await freezer.thaw([]);
    if (faults.length > 0) throw new Error(`not frozen: ${faults.join(', ')}`);
    await sleep(300); // so that they are in the midst of something again
  }
  const share = ((cpuOf(slice) - began.cpuS) / ((performance.now() - began.ms) / 1000)) * 100;
  report({
    figure: 'freeze',
    value: percentile(tookMs, 0.99),
    unit: 'ms (p99)',
    target: { atMost: 300 },
    n: rounds,
    median: median(tookMs),
    compared: { guests, highestMs: round(Math.max(...tookMs)), guestsCpuPctOfACore: round(share) },
  });
}

/** What the keeper itself takes, with ten VMs armed. */
export async function keeper(d: Drills, seconds: number): Promise<void> {
  await busy(d);
  const pid = await d.pidOf(node, 'flotilla-keeper');
  const proc = `/proc/${await leaderOf(d.lab, node)}/root/proc/${pid}`;
  const [began, beganMs] = [cpuSecondsOf(proc), performance.now()];
  const rss: number[] = [];
  const pss: number[] = [];
  say(`keeper: ${seconds} s`);
  for (let i = 0; i < seconds; i++) {
    const m = memoryOf(proc);
    rss.push(m.rss);
    pss.push(m.pss);
    await sleep(1_000);
  }
  const cpuPct = ((cpuSecondsOf(proc) - began) / ((performance.now() - beganMs) / 1000)) * 100;
  const compared = { armedVms: guests, pssMB: round(median(pss)) };
  report({
    figure: 'keeper-memory',
    value: Math.max(...rss),
    unit: 'MB resident',
    target: { atMost: 60 },
    n: seconds,
    median: median(rss),
    compared,
  });
  report({
    figure: 'keeper-cpu',
    value: cpuPct,
    unit: '% of a core',
    target: { atMost: 0.5 },
    n: 1,
    compared: { ...compared, seconds },
  });
}

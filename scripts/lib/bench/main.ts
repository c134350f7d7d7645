/*
 * main.js FIGURE…: measures these figures and prints a JSON line of each. Those of the lab want the cluster that
 * scripts/bench has brought up, and run on its fabric, where the nodes' addresses are.
 */
import { Drills } from '../../../test/lab/drill.js';
import { Lab } from '../../../test/lab/harness.js';
import { apiList } from './api-list.js';
import { balanceDay } from './balance-day.js';
import { balanceLarge, balancePlans, balanceSlices } from './balance.js';
import { Cluster } from './cluster.js';
import { controller } from './controller.js';
import { coldStart } from './cold-start.js';
import { disk } from './disk.js';
import { failover, failoverCopies, plannedMove } from './failover.js';
import { freeze, keeper } from './keeper.js';
import { imageBuild, joins } from './join.js';
import { libvirtClient } from './libvirt-client.js';
import { lockstep } from './lockstep.js';
import { migrate } from './migrate.js';
import { ovaImport } from './ova-import.js';
import { ovfParse } from './ovf.js';
import { gui } from './gui.js';
import { idleCpu, memory } from './resources.js';
import { say } from './report.js';
import { up, upFresh } from './up.js';
import { vmStart } from './vm-start.js';

/** `FLOTILLA_BENCH=quick`: few repetitions, to try the benchmark itself. */
const quick = process.env['FLOTILLA_BENCH'] === 'quick';

const inLab: Readonly<Record<string, (c: Cluster) => Promise<void>>> = {
  'vm-start': (c) => vmStart(c, quick ? 4 : 20),
  memory: (c) => memory(c, quick ? 5 : 60),
  'libvirt-client': (c) => libvirtClient(c, quick ? 2 : 20),
  'idle-cpu': (c) => idleCpu(c, quick ? 20 : 60),
  'cold-start': (c) => coldStart(c, quick ? 3 : 7),
};
/** These bring up a lab of their own, of production timings, and break it on purpose. */
const inDrills: Readonly<Record<string, (d: Drills) => Promise<void>>> = {
  migrate: (d) => migrate(d, quick ? 2 : 24),
  failover: (d) => (quick ? failover(d, 2, 1) : failover(d, 14, 6)),
  'planned-move': (d) => plannedMove(d, quick ? 1 : 5),
  // Last, as the guests they start stay.
  keeper: (d) => keeper(d, quick ? 10 : 60),
  freeze: (d) => freeze(d, quick ? 20 : 200),
};
const alone: Readonly<Record<string, () => Promise<void>>> = {
  'api-list': () => apiList(quick ? 100 : 500),
  controller: () => (quick ? controller(2, 200, 5) : controller(10, 2_000, 120)),
  lockstep: () => (quick ? lockstep(2, 1) : lockstep(10, 10)),
  gui: () => gui(quick ? 3 : 15),
  up: () => up(quick ? 1 : 3),
  'up-fresh': upFresh,
  'failover-copies': () => failoverCopies(quick ? 1 : 20),
  disk: () => disk(quick ? 3 : 21, quick ? 100 : 300),
  'image-build': imageBuild,
  join: joins,
  'ova-import': () => ovaImport(quick ? 1 : 5),
  'balance-plans': () => Promise.resolve(balancePlans(quick ? 1 : 5)),
  'balance-large': () => Promise.resolve(balanceLarge(quick ? 5 : 50)),
  'balance-slices': () => Promise.resolve(balanceSlices()),
  'balance-day': () => Promise.resolve(balanceDay(quick)),
  'ovf-parse': () => Promise.resolve(ovfParse(quick ? 5 : 21)),
};

const asked = process.argv.slice(2);
let failed = false;
const attempt = async (name: string, measure: () => Promise<void>): Promise<void> => {
  try {
    await measure();
  } catch (e) {
    failed = true; // the others are worth having all the same
    say(`${name} failed: ${e instanceof Error ? (e.stack ?? e.message) : String(e)}`);
  }
};

const where = {
  id: process.env['LAB_ID'] ?? 'flbench',
  net: process.env['LAB_NET'] ?? '10.77.0',
  guestNet: process.env['LAB_GUEST_NET'] ?? '10.77.100',
};
if (asked.some((name) => name in inLab)) {
  const cluster = await Cluster.open(new Lab(where));
  for (const [name, measure] of Object.entries(inLab))
    if (asked.includes(name)) await attempt(name, () => measure(cluster));
  await cluster.close();
}
if (asked.some((name) => name in inDrills)) {
  const drills = await Drills.up(where);
  for (const [name, measure] of Object.entries(inDrills))
    if (asked.includes(name)) await attempt(name, () => measure(drills));
  await drills.down();
}
for (const [name, measure] of Object.entries(alone)) if (asked.includes(name)) await attempt(name, measure);
process.exitCode = failed ? 1 : 0;

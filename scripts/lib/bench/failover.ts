import { loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LibvirtHypervisor } from '../../../agent/libvirt/index.js';
import type { Op } from '../../../core/domain/op.js';
import { failoverPhases } from '../../../core/domain/ha.js';
import { bootMs, Drills, twoCopies } from '../../../test/lab/drill.js';
import { waitFor } from '../../../test/lab/harness.js';
import { hypervisorOf, lostPowerMs } from './lab-node.js';
import { median, percentile, report, round, say } from './report.js';

/** libvirt of the standby is asked so often whether the machine runs, ms. */
const pollMs = 25;
const vm = 'web';

interface Loss {
  /** Seconds from the loss of power to QEMU running, seen from outside. */
  readonly runningS: number;
  /** And to the guest's first word after it booted. */
  readonly guestS: number;
  /** From the op: seconds after the last beat. */
  readonly phasesS: Readonly<Record<string, number>>;
  readonly load: number;
}

/** Cuts the power of the VM's owner, again and again; with the leader of the ledger there, and elsewhere. */
export async function failover(d: Drills, followers: number, leaders: number): Promise<void> {
  if (!d.ids.has(vm)) await d.witness(vm, 'n2');
  const kinds = [
    { figure: 'failover', rounds: followers, leads: false, targetS: { median: 12, p95: 13.5 } },
    { figure: 'failover-leader', rounds: leaders, leads: true, targetS: { median: null, p95: 16 } },
  ];
  for (const { figure, rounds, leads, targetS } of kinds) {
    const losses: Loss[] = [];
    for (let i = 0; i < rounds; i++) {
      losses.push(await loss(d, leads));
      say(`${figure} ${i + 1} of ${rounds}: ${losses.at(-1)?.runningS.toFixed(2)} s`);
    }
    if (losses.length === 0) continue;
    const running = losses.map((l) => l.runningS);
    const common = {
      unit: 's from power loss to QEMU running on the standby',
      n: losses.length,
      compared: {
        allS: running.map(round),
        fromLastBeatS: phases(losses),
        guestSpeaksS: spread(losses.map((l) => l.guestS)),
        load: spread(losses.map((l) => l.load)),
      },
    };
    if (targetS.median !== null)
      report({
        figure: `${figure}-median`,
        value: median(running),
        target: { atMost: targetS.median },
        ...common,
      });
    report({
      figure: `${figure}-p95`,
      value: percentile(running, 0.95),
      target: { atMost: targetS.p95 },
      ...common,
    });
  }
  const wrong = d.violations();
  if (wrong.length > 0) throw new Error(`a VM ran twice or lost a write: ${wrong.join('; ')}`);
}

const inSeconds = (phasesMs: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(Object.entries(phasesMs).map(([p, ms]) => [p, ms / 1000]));

const spread = (values: readonly number[]): Record<string, number> => ({
  median: round(median(values)),
  highest: round(Math.max(...values)),
});

function phases(losses: readonly Pick<Loss, 'phasesS'>[]): Record<string, Record<string, number>> {
  return Object.fromEntries(
    failoverPhases.flatMap((p) => {
      const values = losses.flatMap((l) => l.phasesS[p] ?? []);
      return values.length === 0 ? [] : [[p, spread(values)]];
    }),
  );
}

async function loss(d: Drills, leads: boolean): Promise<Loss> {
  const { c, lab } = d;
  const standby = await d.untilProtected(vm);
  const owner = await d.ownerOf(vm);
  const third = d.nodes.find((n) => n !== owner && n !== standby) ?? '';
  // A new leader lets every lease live a second longer than it should, once.
  if (await d.lead(leads ? owner : third)) await sleep(d.timing.leaseTtlS * 2_000);
  await c.controllerOn(third);
  const before = await d.failoverOps(vm);
  const boot = d.bootOf(vm);
  const there = await hypervisorOf(lab, standby);
  try {
    const runs = untilRunning(there, d.id(vm));
    const load = loadavg()[0] ?? 0;
    const lostMs = lostPowerMs(await lab.must('kill', owner));
    const runningMs = await runs;
    await d.bootsAfter(vm, boot);
    const guestMs = Date.now();
    const line = await d.takenOver(vm, before);
    const phasesS = inSeconds(line.phasesMs);
    return { runningS: (runningMs - lostMs) / 1000, guestS: (guestMs - lostMs) / 1000, phasesS, load };
  } finally {
    await there.close();
    await d.back(owner);
  }
}

/**
 * The same of a VM with copies, on emulated machines. What is emulated takes most of the time there: timings, phases and the
 * machine's own boot stand beside it.
 */
export async function failoverCopies(losses: number): Promise<void> {
  const d = await Drills.up({ kind: 'metal', id: process.env['LAB_ID'] ?? 'flbench' });
  const seen: CopiesLoss[] = [];
  try {
    await d.poolOfDrives();
    await d.witness(vm, 'n1', { disks: twoCopies });
    while (seen.length < losses) {
      const line = await copiesLoss(d);
      seen.push(line);
      say(`failover-copies ${seen.length} of ${losses}: ${JSON.stringify(line)}`);
      const wrong = d.violations();
      if (wrong.length > 0) throw new Error(`a VM ran twice or lost a write: ${wrong.join('; ')}`);
    }
  } catch (e) {
    say(`journals and consoles: ${await d.keepRecords().catch(String)}`);
    throw e;
  } finally {
    await d.down();
    // Those before one that failed are worth having.
    if (seen.length > 0) reportCopies(d, seen);
  }
}

interface CopiesLoss extends Pick<Loss, 'phasesS' | 'guestS' | 'load'> {
  /** Seconds that the machine took to boot and all to be as before. */
  readonly backS: number;
}

async function copiesLoss(d: Drills): Promise<CopiesLoss> {
  await d.untilProtected(vm);
  await d.inSync(vm);
  const owner = await d.ownerOf(vm);
  const [before, boot] = [await d.failoverOps(vm), d.bootOf(vm)];
  const load = loadavg()[0] ?? 0;
  const lostMs = lostPowerMs(await d.lab.must('kill', owner));
  await d.bootsAfter(vm, boot);
  const guestS = (Date.now() - lostMs) / 1000;
  const { phasesMs } = await d.takenOver(vm, before);
  const bootMs = Date.now();
  await d.back(owner);
  return { phasesS: inSeconds(phasesMs), guestS, backS: (Date.now() - bootMs) / 1000, load };
}

function reportCopies(d: Drills, losses: readonly CopiesLoss[]): void {
  const { leaseTtlS, fenceWaitMs } = d.timing;
  const running = losses.map((l) => l.phasesS['running'] ?? Infinity);
  report({
    figure: 'failover-copies',
    value: median(running),
    unit: 's from the last beat heard to QEMU running on the node with the other copy, emulated machines',
    // As of production's timings: lease, fence wait and two seconds.
    target: { atMost: leaseTtlS + fenceWaitMs / 1000 + 2 },
    n: losses.length,
    compared: {
      allS: running.map(round),
      fromLastBeatS: phases(losses),
      guestSpeaksS: spread(losses.map((l) => l.guestS)),
      machineBackS: spread(losses.map((l) => l.backS)),
      load: spread(losses.map((l) => l.load)),
      leaseS: leaseTtlS,
      fenceWaitS: fenceWaitMs / 1000,
      timing: d.lab.timing,
    },
  });
}

/** @returns wall clock of the first answer that it runs */
async function untilRunning(h: LibvirtHypervisor, id: string): Promise<number> {
  await waitFor('QEMU runs on the standby', async () => (await h.state(id)).state === 'running', {
    limitMs: bootMs,
    everyMs: pollMs,
  });
  return Date.now();
}

/**
 * A planned move as far as there is one today: the VM is stopped, its node switched off in order, and when the standby
 * has made the stopped VM its own, it is started there. Live migration and relocation do not exist yet.
 */
export async function plannedMove(d: Drills, rounds: number): Promise<void> {
  const { c, lab } = d;
  if (!d.ids.has(vm)) await d.witness(vm, 'n2');
  const totals: number[] = [];
  const downs: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const standby = await d.untilProtected(vm);
    const owner = await d.ownerOf(vm);
    await c.controllerOn(d.nodes.find((n) => n !== owner && n !== standby) ?? '');
    const beganMs = Date.now();
    const act = async (action: 'stop' | 'start'): Promise<void> => {
      const { op } = await c.must<{ op: Op }>('POST', `vms/${vm}/actions/${action}`);
      const end = await c.opEnd(op);
      if (end.state !== 'done') throw new Error(`${action}: ${JSON.stringify(end.error)}`);
    };
    await act('stop');
    const stoppedMs = Date.now();
    await lab.exec(owner, 'systemctl', 'poweroff');
    await waitFor('the standby owns it', async () => (await d.ownerOf(vm)) === standby);
    await act('start');
    totals.push((Date.now() - beganMs) / 1000);
    downs.push((Date.now() - stoppedMs) / 1000);
    say(`planned-move ${i + 1} of ${rounds}: ${totals.at(-1)?.toFixed(2)} s`);
    await lab.kill(owner); // clears up after it, however far its shutdown is
    await d.goesOn(vm);
    await d.back(owner);
  }
  report({
    figure: 'planned-move',
    value: median(totals),
    unit: 's from the wish to stop to QEMU running on the standby',
    target: { atMost: 12 },
    n: rounds,
    compared: { allS: totals.map(round), withoutTheGuestsShutdownS: spread(downs) },
  });
}

import { resourceConfig, resourceName } from '../../../agent/drbd/config.js';
import type { Replica } from '../../../core/domain/replica.js';
import { Lab, waitFor } from '../../../test/lab/harness.js';
import { median, percentile, report, round, say } from './report.js';

const vm = '00000000-0000-4000-8000-0000000000bd';
const group = 'flotilla-bench';
const sizeMiB = 256;
const storage = (node: string): string => `10.79.200.${node.slice(1)}`;
const volume = (name: string): string => `/dev/${group}/${name}`;

/** A pair as an agent would configure it: protocol C over the storage network. */
const replica: Replica = {
  vm,
  port: 7800,
  secret: 'b'.repeat(32),
  nodes: ['n1', 'n2'].map((node) => ({ node, address: storage(node) })),
  volumes: [{ volume: 0, disk: vm, pool: vm, minor: 1000, below: volume('below') }],
};

/**
 * A disk with copies on two nodes against the raw volume below, on the metal rig: two thin volumes of one pool, written once
 * all over, one of them under DRBD. 4 KiB each, one at a time, past the page cache; by turns, and between them the round trip
 * on the storage network.
 *
 * @param rounds - of each side @param count - requests in a round
 */
export async function disk(rounds: number, count: number): Promise<void> {
  const lab = new Lab({ kind: 'metal', id: process.env['LAB_ID'] ?? 'flbench' });
  await lab.down();
  try {
    await lab.up(2);
    await makePair(lab);
    const device = '/dev/drbd1000';
    const sides = { raw: volume('beside'), drbd: device } as const;
    const reads = { raw: [] as number[], drbd: [] as number[] };
    const writes = { raw: [] as number[], drbd: [] as number[] };
    const trips: number[] = [];
    for (let i = 0; i < rounds; i++) {
      // Who comes first changes, so that what drifts does not favour one.
      const order = i % 2 === 0 ? (['raw', 'drbd'] as const) : (['drbd', 'raw'] as const);
      for (const side of order) reads[side].push(await requests(lab, sides[side], count, false));
      for (const side of order) writes[side].push(await requests(lab, sides[side], count, true));
      trips.push(await roundTrip(lab));
      say(`disk ${i + 1} of ${rounds}`);
    }
    const rate = (ms: readonly number[]): number => 1_000 / median(ms);
    const spread = (ms: readonly number[]) => ({
      medianMs: round(median(ms)),
      p90Ms: round(percentile(ms, 0.9)),
      lowestMs: round(Math.min(...ms)),
    });
    report({
      figure: 'disk-read',
      value: rate(reads.drbd) / rate(reads.raw),
      unit: 'times the raw volume: 4 KiB random reads a second, medians of rounds',
      target: { atLeast: 0.95 },
      n: rounds,
      compared: { requestsPerRound: count, drbd: spread(reads.drbd), raw: spread(reads.raw) },
    });
    const trip = median(trips);
    report({
      figure: 'disk-write',
      value: (median(writes.drbd) - median(writes.raw)) / trip,
      unit: 'round trips that a flushed 4 KiB write takes longer than on the raw volume, medians of rounds',
      target: { atMost: 1.3 },
      n: rounds,
      compared: {
        requestsPerRound: count,
        drbd: spread(writes.drbd),
        raw: spread(writes.raw),
        roundTripMs: round(trip),
      },
    });
  } finally {
    await lab.down();
  }
}

async function makePair(lab: Lab): Promise<void> {
  const name = resourceName(vm);
  const make = (node: string): Promise<string> =>
    lab.sh(
      node,
      `pvcreate -q /dev/vdc >/dev/null; vgcreate -q ${group} /dev/vdc >/dev/null
      lvcreate -q -L 1g -T ${group}/pool >/dev/null
      for v in below beside; do lvcreate -q -V ${sizeMiB}m -T ${group}/pool -n $v >/dev/null; done
      for v in below beside; do dd if=/dev/zero of=/dev/${group}/$v bs=1M oflag=direct status=none 2>/dev/null || true; done
      cat >/etc/drbd.d/bench.res <<'END'
${resourceConfig(replica, node).replace(/^global.*\n/, '')}END
      modprobe drbd
      drbdadm -- --force create-md ${name} >/dev/null 2>&1
      drbdadm up ${name}`,
    );
  await Promise.all(['n1', 'n2'].map(make));
  const state = (): Promise<string> => lab.sh('n1', `drbdadm cstate ${name}; drbdadm dstate ${name}`);
  await waitFor('they are connected', async () => (await state()).startsWith('Connected'));
  await lab.sh('n1', `drbdadm -- --clear-bitmap new-current-uuid ${name}/0 && drbdadm primary ${name}`);
  await waitFor('both are up to date', async () => (await state()).endsWith('UpToDate/UpToDate'));
}

/** One request after the other, at places far apart. @returns ms of one */
async function requests(lab: Lab, device: string, count: number, write: boolean): Promise<number> {
  // A prime number of pages further each time: no two near each other, none twice in a round.
  const step = 4096 * 7919;
  const from = Math.floor(Math.random() * 1000) * 4096;
  const kind = write ? ['-w', '--flush-interval=1', '--pattern=85'] : [];
  const said = await lab.sh(
    'n1',
    ['qemu-img bench -f raw -t none -d 1', `-c ${count} -s 4096 -S ${step} -o ${from}`, ...kind, device].join(
      ' ',
    ),
  );
  const s = Number(/completed in ([\d.]+) seconds/.exec(said)?.[1]);
  if (!(s > 0)) throw new Error(`qemu-img bench: ${said}`);
  return (s * 1_000) / count;
}

/** Median of twenty, ms. */
async function roundTrip(lab: Lab): Promise<number> {
  const said = await lab.sh('n1', `ping -c 20 -i 0.05 -s 4096 ${storage('n2')}`);
  const times = [...said.matchAll(/time=([\d.]+) ms/g)].map((m) => Number(m[1]));
  if (times.length < 15) throw new Error(`ping: ${said}`);
  return median(times);
}

import type { Cluster } from './cluster.js';
import { median, percentile, report, round, say } from './report.js';

const node = 'n3';

/** State of all domains: one call of our client against one `virsh domstats --state`, by turns on one daemon. */
export async function libvirtClient(cluster: Cluster, rounds: number): Promise<void> {
  const vms = await cluster.only(20, node);
  const hypervisor = await cluster.hypervisor(node);
  const call = () => hypervisor.stats({ groups: ['state'] });
  const ours: number[] = [];
  const virsh: number[] = [];
  for (let i = 0; i < 200; i++) await call(); // both are warm when measured
  say(`libvirt-client: ${rounds} rounds of 100 calls and 5 runs of virsh`);
  let seen = 0;
  for (let i = 0; i < rounds; i++) {
    for (let j = 0; j < 100; j++) {
      const startMs = performance.now();
      seen = (await call()).length;
      ours.push(performance.now() - startMs);
    }
    virsh.push(...(await virshRuns(cluster, 5)));
  }
  if (seen < vms.length) throw new Error(`the client saw ${seen} of ${vms.length} domains`);
  report({
    figure: 'libvirt-client',
    value: median(virsh) / median(ours),
    unit: 'times faster than virsh, medians',
    target: { atLeast: 50 },
    n: ours.length,
    median: median(ours),
    p99: percentile(ours, 0.99),
    compared: {
      domains: seen,
      callMs: round(median(ours)),
      virshMs: round(median(virsh)),
      virshN: virsh.length,
    },
  });
}

/** Timed inside the node, so that entering it does not count. */
async function virshRuns(cluster: Cluster, n: number): Promise<number[]> {
  const loop = `for i in $(seq ${n}); do a=$EPOCHREALTIME; virsh domstats --state >/dev/null; b=$EPOCHREALTIME; echo $(( \${b/./} - \${a/./} )); done`;
  const out = await cluster.lab.must('exec', node, 'bash', '-c', loop);
  return out
    .trim()
    .split('\n')
    .map((us) => Number(us) / 1000);
}

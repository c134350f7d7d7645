import { waitFor } from '../../../test/lab/harness.js';
import type { Cluster } from './cluster.js';
import { median, percentile, report, round, say } from './report.js';

const node = 'n3';
const unit = 'flotilla-agent';

/** From systemd's start of the agent's process to the journal's line of its first complete state, with 20 VMs. */
export async function coldStart(cluster: Cluster, n: number): Promise<void> {
  const vms = await cluster.only(20, node);
  await cluster.idle(node, vms);
  say(`cold-start: ${n} restarts`);
  const took: number[] = [];
  const own: number[] = [];
  for (let i = 0; i < n; i++) {
    await cluster.lab.sh(node, `systemctl restart ${unit}`);
    const pid = await cluster.unit(node, unit, 'MainPID');
    const startedUs = Number(await cluster.unit(node, unit, 'ExecMainStartTimestampMonotonic'));
    const line = await waitFor('first complete state', async () => {
      const out = await cluster.lab.sh(
        node,
        `journalctl -q -o json --output-fields=MESSAGE _PID=${pid} -u ${unit} --grep 'first complete state' || true`,
      );
      return out === '' ? null : (JSON.parse(out) as { MESSAGE: string; __MONOTONIC_TIMESTAMP: string });
    });
    took.push((Number(line.__MONOTONIC_TIMESTAMP) - startedUs) / 1000);
    own.push(Number(/after (\d+) ms/.exec(line.MESSAGE)?.[1]));
  }
  report({
    figure: 'cold-start',
    value: median(took) / 1000,
    unit: 's',
    target: { atMost: 2 },
    n,
    median: median(took) / 1000,
    compared: {
      vms: vms.length,
      worstS: round(percentile(took, 1) / 1000),
      byTheAgentItselfS: round(median(own) / 1000),
    },
  });
}

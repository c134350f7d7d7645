import type { Cluster } from './cluster.js';
import { median, percentile, report, round, say } from './report.js';

const node = 'n3';
const unit = 'flotilla-agent';
const limitS = 60;

/** Looks from inside the node, a few times a second: looking from here would take CPU from what is measured. */
const restart = `systemctl restart ${unit}
pid=$(systemctl show --value -p MainPID ${unit})
systemctl show --value -p ExecMainStartTimestampMonotonic ${unit}
for i in $(seq ${limitS * 4}); do
  line=$(journalctl -q -o json --output-fields=MESSAGE _PID=$pid -u ${unit} --grep 'first complete state' || true)
  [ -z "$line" ] || break
  sleep 0.25
done
printf '%s\\n' "$line"`;

/** From systemd's start of the agent's process to the journal's line of its first complete state, with 20 VMs. */
export async function coldStart(cluster: Cluster, n: number): Promise<void> {
  const vms = await cluster.only(20, node);
  await cluster.idle(node, vms);
  say(`cold-start: ${n} restarts`);
  const took: number[] = [];
  const own: number[] = [];
  for (let i = 0; i < n; i++) {
    const [startedUs, text] = (await cluster.lab.sh(node, restart)).split('\n');
    if (text === undefined || text === '') throw new Error(`no complete state within ${limitS} s`);
    const line = JSON.parse(text) as { MESSAGE: string; __MONOTONIC_TIMESTAMP: string };
    took.push((Number(line.__MONOTONIC_TIMESTAMP) - Number(startedUs)) / 1000);
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

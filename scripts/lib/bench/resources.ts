import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from './cluster.js';
import { cpuSecondsOf, memoryOf } from './process.js';
import { median, report, round, say } from './report.js';

/** A node that has no controller. */
const node = 'n3';

async function procOf(cluster: Cluster, unit: string): Promise<string> {
  return cluster.file(node, `/proc/${await cluster.unit(node, unit, 'MainPID')}`);
}

/** Resident memory of agent and broker with five VMs and three nodes; the highest of a sample a second. */
export async function memory(cluster: Cluster, seconds: number): Promise<void> {
  const vms = await cluster.only(5, node);
  await cluster.idle(node, vms);
  const agent = await procOf(cluster, 'flotilla-agent');
  const broker = await procOf(cluster, 'flotilla-mosquitto');
  say(`memory: ${seconds} s`);
  const samples: { agent: ReturnType<typeof memoryOf>; broker: ReturnType<typeof memoryOf> }[] = [];
  for (let i = 0; i < seconds; i++) {
    samples.push({ agent: memoryOf(agent), broker: memoryOf(broker) });
    await sleep(1_000);
  }
  const sums = samples.map((s) => s.agent.rss + s.broker.rss);
  report({
    figure: 'memory',
    value: Math.max(...sums),
    unit: 'MB resident',
    target: { atMost: 120 },
    n: seconds,
    median: median(sums),
    compared: {
      agentRssMB: round(median(samples.map((s) => s.agent.rss))),
      mosquittoRssMB: round(median(samples.map((s) => s.broker.rss))),
      pssMB: round(median(samples.map((s) => s.agent.pss + s.broker.pss))),
    },
  });
}

/** CPU of the agent beside twenty idle VMs, with the children it waited for; QEMU is no child of its. */
export async function idleCpu(cluster: Cluster, seconds: number): Promise<void> {
  const vms = await cluster.only(20, node);
  await cluster.idle(node, vms);
  const agent = await procOf(cluster, 'flotilla-agent');
  const broker = await procOf(cluster, 'flotilla-mosquitto');
  await sleep(10_000); // what the last start left to do
  say(`idle-cpu: ${seconds} s`);
  const began = { ms: performance.now(), agent: cpuSecondsOf(agent), broker: cpuSecondsOf(broker) };
  await sleep(seconds * 1_000);
  const tookS = (performance.now() - began.ms) / 1000;
  const share = (usedS: number): number => (usedS / tookS) * 100;
  report({
    figure: 'idle-cpu',
    value: share(cpuSecondsOf(agent) - began.agent),
    unit: '% of a core',
    target: { atMost: 2 },
    n: 1,
    compared: {
      vms: vms.length,
      seconds: round(tookS),
      mosquittoPct: round(share(cpuSecondsOf(broker) - began.broker)),
      agentRssMB: round(memoryOf(agent).rss),
    },
  });
}

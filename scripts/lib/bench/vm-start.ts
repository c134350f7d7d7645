import { setTimeout as sleep } from 'node:timers/promises';
import type { RestAnswer } from '../../../core/wire/rest.js';
import type { Cluster } from './cluster.js';
import { median, percentile, report, round, say } from './report.js';

const node = 'n2';
/** libvirt is asked so often whether the machine runs, ms. */
const pollMs = 5;
/** Between two starts, so that what the last one left to do is over, ms. */
const settleMs = 700;
const limitMs = 60_000;

/**
 * Starts one VM by turns through Flotilla and by `virsh create`. Through Flotilla: from the request on an open
 * connection to libvirt saying `running`. By virsh: the command's own time, in the node.
 */
export async function vmStart(cluster: Cluster, rounds: number): Promise<void> {
  const { api, lab } = cluster;
  await cluster.only(0, node);
  const vm = await cluster.make('start', node, 'stopped');
  const hypervisor = await cluster.hypervisor(node);
  const running = async (uuid: string): Promise<boolean> => {
    try {
      return (await hypervisor.state(uuid)).state === 'running';
    } catch {
      return false; // between undefine and define there is none
    }
  };

  /** @returns ms until the API answered, until it ran, until the op was done */
  const ours = async (): Promise<{ answeredMs: number; runningMs: number; doneMs: number }> => {
    const startMs = performance.now();
    const asked = api.post<RestAnswer<'vmAction'>>(`/vms/${vm.id}/actions/start`);
    const answered = asked.then(() => performance.now() - startMs);
    while (!(await running(vm.id))) {
      if (performance.now() - startMs > limitMs) throw new Error('the VM does not run');
      await sleep(pollMs);
    }
    const runningMs = performance.now() - startMs;
    const { op } = await asked;
    const done = await api.ended(op);
    await stop();
    return { answeredMs: await answered, runningMs, doneMs: done.updatedMs - done.createdMs };
  };
  const stop = async (): Promise<void> => {
    await api.ended((await api.post<RestAnswer<'vmAction'>>(`/vms/${vm.id}/actions/force-stop`)).op);
    await sleep(settleMs);
  };
  /** The same machine under another name, and without our mark, so that the agent leaves it alone. */
  const create = async (): Promise<number> => {
    const us = await lab.sh(
      node,
      "bash -c 'a=$EPOCHREALTIME; virsh -q create /root/bench.xml >/dev/null; b=$EPOCHREALTIME; echo $(( ${b/./} - ${a/./} ))'; virsh -q destroy bench >/dev/null",
    );
    await sleep(settleMs);
    return Number(us) / 1000;
  };

  await ours(); // defines it, and makes caches warm
  await lab.sh(
    node,
    `virsh dumpxml --inactive ${vm.id} | sed -e 's,<name>.*</name>,<name>bench</name>,' \
      -e "s,<uuid>.*</uuid>,<uuid>$(cat /proc/sys/kernel/random/uuid)</uuid>," \
      -e '/<metadata>/,/<\\/metadata>/d' >/root/bench.xml`,
  );
  await create();

  say(`vm-start: ${rounds} rounds`);
  const flotilla: { answeredMs: number; runningMs: number; doneMs: number }[] = [];
  const virsh: number[] = [];
  for (let i = 0; i < rounds; i++) {
    if (i % 2 === 0) flotilla.push(await ours());
    virsh.push(await create());
    if (i % 2 === 1) flotilla.push(await ours());
  }
  const runs = flotilla.map((r) => r.runningMs);
  report({
    figure: 'vm-start',
    value: median(runs) / median(virsh),
    unit: 'ratio of medians',
    target: { atMost: 1.3 },
    n: rounds,
    compared: {
      flotillaMs: { median: round(median(runs)), p90: round(percentile(runs, 0.9)) },
      virshCreateMs: { median: round(median(virsh)), p90: round(percentile(virsh, 0.9)) },
      apiAnswerMs: round(median(flotilla.map((r) => r.answeredMs))),
      opDoneMs: round(median(flotilla.map((r) => r.doneMs))),
    },
  });
}

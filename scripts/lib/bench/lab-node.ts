import { readFileSync } from 'node:fs';
import path from 'node:path';
import { LibvirtHypervisor } from '../../../agent/libvirt/index.js';
import type { Lab } from '../../../test/lab/harness.js';

/** Process id of a node's PID 1 on this machine. */
export async function leaderOf(lab: Lab, node: string): Promise<number> {
  const pid = new RegExp(`^${node} on, pid (\\d+),`, 'm').exec(await lab.must('ps'))?.[1];
  if (pid === undefined) throw new Error(`${node} is off`);
  return Number(pid);
}

/** libvirt of a node, from outside. The caller closes it. */
export async function hypervisorOf(lab: Lab, node: string): Promise<LibvirtHypervisor> {
  const h = new LibvirtHypervisor({
    socketPath: `/proc/${await leaderOf(lab, node)}/root/run/libvirt/libvirt-sock`,
  });
  h.open();
  await h.waitConnected();
  return h;
}

/** When a node lost its power, wall clock, as `scripts/lab kill` says. */
export function lostPowerMs(said: string): number {
  const ms = /lost its power at (\d+)/.exec(said)?.[1];
  if (ms === undefined) throw new Error(`no word of a loss of power: ${said}`);
  return Number(ms);
}

/** A directory of a node's cgroups, as this machine sees it. */
export async function cgroupOf(lab: Lab, node: string, group: string): Promise<string> {
  const own = readFileSync(`/proc/${await leaderOf(lab, node)}/cgroup`, 'utf8');
  const payload = path.dirname(/^0::(.*)$/m.exec(own)?.[1] ?? '');
  const mount = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .find(([, , type]) => type === 'cgroup2')?.[1];
  return path.join(mount ?? '/sys/fs/cgroup', payload, group);
}

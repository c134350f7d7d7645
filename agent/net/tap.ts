import { readFile } from 'node:fs/promises';
import type { Tool } from '../pool/tool.js';

const deadlineMs = 10_000;

/** The NIC's end on the node, by the VM: Linux takes names of up to 15 characters. */
export const tapName = (vm: string): string => `lk${vm.replaceAll('-', '').slice(0, 12)}`;

/** Makes the tap anew, joined to no bridge: what its guest sends goes nowhere. */
export async function makeTap(run: Tool, tap: string, mac: string): Promise<void> {
  await removeTap(run, tap);
  const ip = (...args: string[]): Promise<unknown> => run('ip', args, { deadlineMs });
  await ip('tuntap', 'add', 'dev', tap, 'mode', 'tap', 'vnet_hdr');
  // Higher than any other of its bridge, which takes the lowest for its own.
  await ip('link', 'set', 'dev', tap, 'address', `fe${mac.slice(2)}`);
  await ip('link', 'set', 'dev', tap, 'up');
}

/** Joins it to its bridge, which it must not make smaller. */
export async function joinBridge(run: Tool, tap: string, bridge: string): Promise<void> {
  const mtu = await readFile(`/sys/class/net/${bridge}/mtu`, 'utf8').then(
    (text) => ['mtu', text.trim()],
    () => [],
  );
  await run('ip', ['link', 'set', 'dev', tap, ...mtu, 'master', bridge], { deadlineMs });
}

/** Idempotent. */
export async function removeTap(run: Tool, tap: string): Promise<void> {
  await run('ip', ['link', 'del', 'dev', tap], { deadlineMs, codes: [1] });
}

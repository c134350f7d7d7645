import type { NodeFacts } from '../domain/node.js';
import type { Network } from '../domain/network.js';
import type { Newcomer } from '../wire/adopt.js';

/**
 * What of a machine does not fit the cluster that it waits for, in sentences for who is about to admit it. None of it stands
 * against the admission: it may be what is wanted, and it can be mended afterwards.
 *
 * @param nodes - facts of the nodes that have said them
 */
export function newcomerNotes(
  m: Newcomer,
  nodes: readonly Pick<NodeFacts, 'cpuModel'>[],
  networks: readonly Pick<Network, 'name' | 'uplink' | 'bridge'>[],
): string[] {
  const cpus = [...new Set(nodes.map((n) => n.cpuModel))].sort();
  const other = cpus.length > 0 && !cpus.includes(m.cpu);
  const cards = networks
    .filter((n) => n.uplink !== null && !m.cards.includes(n.uplink))
    .map(
      (n) =>
        `It has no card ${n.uplink}, which the network "${n.name}" has elsewhere: VMs on it do not start there, unless somebody makes a bridge ${n.bridge} by hand.`,
    );
  return [
    ...(other
      ? [
          `Its processor, ${m.cpu}, is none that a node has (${cpus.slice(0, 3).join('; ')}): VMs that run may not migrate between it and them; stopped ones may.`,
        ]
      : []),
    ...cards.sort(),
  ];
}

import type { ProtectionLevel } from './ha.js';
import { formatSize, formatSpan } from './units.js';

/** What a protection level keeps and what it costs, for people: the same words everywhere. */
export interface LevelWords {
  readonly title: string;
  /** May be gone in a later version, and was not proven as the others were. */
  readonly experimental: boolean;
  /** What is lost when its node dies. */
  readonly loses: string;
  readonly costs: readonly string[];
}

/**
 * How long a guest stands still while its memory is copied to its twin, ms: it cannot be copied while it runs.
 *
 * @param linkMiBps - of the network between both nodes
 * @see docs/lockstep.md: 0.3 to 1.2 s for 256 MiB where the wire was no limit
 */
export const standstillMs = (memoryMiB: number, linkMiBps: number): number =>
  Math.round(500 + (memoryMiB / Math.max(1, linkMiBps)) * 1000);

/** @param linkMiBps - between its node and that of its twin, as far as is known */
export function levelWords(
  level: ProtectionLevel,
  vm: { readonly memoryMiB: number; readonly cpus: number },
  linkMiBps: number,
): LevelWords {
  const memory = formatSize(vm.memoryMiB * 2 ** 20);
  switch (level) {
    case 'none':
      return {
        title: 'None',
        experimental: false,
        loses:
          'It is off until its node is back, and what was in its memory is lost. If the node never comes back, so is what lay there alone.',
        costs: ['Nothing.'],
      };
    case 'restart':
      return {
        title: 'Restart (HA)',
        experimental: false,
        loses:
          'What was in its memory, and open connections: it starts on its standby, about 12 s later. What its guest was told is on disk stays.',
        costs: [
          `Its standby keeps ${memory} of memory free for it.`,
          'Its disks are on a shared pool, or have two copies: then each write waits for both.',
        ],
      };
    case 'lockstep':
      return {
        title: 'Lockstep (FT)',
        experimental: true,
        loses:
          'Nothing: its twin goes on with memory, connections and disk. Clients wait for about a second, longer on busy nodes. Then it is unprotected until it has another twin.',
        costs: [
          `Memory and CPUs twice: another ${memory} and ${vm.cpus} ${vm.cpus === 1 ? 'CPU' : 'CPUs'} on a second node.`,
          'What it sends leaves when both machines say the same, or after a checkpoint of about 50 ms. Measured, without KVM: a plain service answers a quarter as often; one whose answers hang on scheduling a fortieth to a hundredth; synced writes a fourteenth; bulk a sixth; computing alone as before.',
          `Its guest stands still once for about ${formatSpan(standstillMs(vm.memoryMiB, linkMiBps))} each time a twin is made.`,
          'Its disk is written on both nodes: a raw file or a thin volume on each, its twin’s of the full size.',
          'No guest agent: its addresses are as handed out, and what its file systems hold is not known.',
          'On nodes without KVM it is for trying out: the twin may run code that its guest has replaced, and panic; it is then made anew.',
          'While it runs: no migration, no snapshots, no move or growing of its disk; balancing leaves it where it is.',
        ],
      };
  }
}

/** What becomes of a twin whose node is emptied, for people. */
export const twinGoes = (t: {
  readonly name: string;
  readonly to: string | null;
  readonly text: string;
}): string =>
  t.to === null
    ? `${t.name} would run on without its twin, unprotected: ${t.text}`
    : `${t.name} would get another twin on ${t.to}, and is unprotected until then`;

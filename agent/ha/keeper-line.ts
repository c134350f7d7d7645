import type { NodeKeeper } from '../../core/domain/node.js';
import type { KeeperState } from '../env.js';

/** VMs that a keeper holds back, at most, in what the node says of itself. */
const heldMax = 64;

/** What a node says of its keeper on the radio. */
export function keeperLine(k: KeeperState | null): NodeKeeper | null {
  if (k === null) return null;
  return {
    mode: k.mode,
    armable: k.armable.ok,
    why: k.armable.ok ? '' : k.armable.why.slice(0, 500),
    watchdog: k.watchdog.kind,
    armed: k.armed.length,
    held: k.held.slice(0, heldMax).map((h) => ({ vm: h.vm, why: h.why.slice(0, 500) })),
    text: k.text.slice(0, 500),
  };
}

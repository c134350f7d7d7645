import { fencingKey } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare } from '../ledger/ledger.js';

/**
 * Switches the power of a node while no other node does.
 *
 * @param still - what must hold for it when it begins
 * @param act - given what must hold for what it writes: that this node is still the one that does it
 * @returns false: another node does it, or something of `still` holds no more
 */
export async function withPowerClaim(
  env: Pick<AgentEnv, 'ledger' | 'keeper' | 'node'>,
  node: string,
  still: readonly Compare[],
  act: (ours: Compare) => Promise<void>,
): Promise<boolean> {
  const { ledger, node: me } = env;
  const lease = env.keeper.state()?.lease ?? null;
  if (lease === null) return false;
  const claim = fencingKey(node);
  const before = await ledger.get(claim);
  if (before !== null && before.value !== me) return false;
  // Of this node's agent before this one: it died at it, and its programs with it. The lease outlives agents.
  const free: Compare =
    before === null ? { key: claim, createRevision: 0n } : { key: claim, modRevision: before.modRevision };
  const claimed = await ledger.txn([...still, free], [{ put: claim, value: me, lease }]);
  if (!claimed.done) return false;
  const ours: Compare = { key: claim, modRevision: claimed.revision };
  try {
    await act(ours);
  } finally {
    await ledger.txn([ours], [{ del: claim }]).catch(() => undefined); // else it ends with the lease
  }
  return true;
}

import type { PairSeen } from '../domain/replica.js';
import type { CopyWords, VmOwn } from '../domain/vm.js';
import { staleFor } from './replica.js';

/** What to do about two copies that are not the same, in words; `command` does it, where a command does. */
export interface Guidance {
  readonly text: string;
  readonly command: string | null;
}

/**
 * The one thing to do next for the copies of a VM, the gravest first; null: nothing. What the cluster does by itself is said,
 * too, so that nobody does it by hand.
 */
export function guidedRepair(
  vm: string,
  copies: readonly Pick<CopyWords, 'state' | 'peer'>[],
  owner: string,
): Guidance | null {
  const peer = copies[0]?.peer ?? 'the other node';
  const has = (state: CopyWords['state']): boolean => copies.some((c) => c.state === state);
  if (has('split-brain'))
    return {
      text: `Both ${owner} and ${peer} were written to while apart, and the ledger does not prove whose writes count. Look at both, and throw one side away; what only that side has is lost`,
      command: `flotilla vm repair ${vm} --discard ${peer}`,
    };
  if (has('diskless'))
    return {
      text: `The drive of ${owner} failed; ${peer} has every write. Shut the VM down and start it on ${peer}, then replace the drive and make the copy anew`,
      command: `flotilla vm stop ${vm}`,
    };
  if (has('inconsistent'))
    return {
      text: `Only ${peer} has all of it: bring it back, and the copying goes on by itself`,
      command: null,
    };
  if (has('waiting'))
    return { text: 'Writes wait until the ledger answers: bring its voters back', command: null };
  if (has('apart') || has('stale'))
    return {
      text: `Bring ${peer} or the storage network back: what differs is then copied by itself. If ${peer} will not be back, give it another standby`,
      command: `flotilla vm standby ${vm}`,
    };
  if (has('syncing')) return { text: 'What differs is being copied: wait', command: null };
  return has('unknown')
    ? { text: `Its owner ${owner} cannot see them: look at that node`, command: null }
    : null;
}

export type Discarding =
  { readonly ok: true; readonly own: VmOwn } | { readonly ok: false; readonly why: string };

/**
 * What the owner writes when a person says whose copies are thrown away; its agents do the rest, as where the ledger proved it.
 * To throw the owner's own away the VM must be off: it then belongs to the other node. @see safety 8
 */
export function withDiscarded(
  own: VmOwn,
  me: string,
  discard: string,
  v: { readonly pair: PairSeen | null; readonly inUse: boolean; readonly peerLive: boolean },
): Discarding {
  const no = (why: string): Discarding => ({ ok: false, why });
  const other = own.copies.find((c) => c.node !== me)?.node;
  if (own.owner !== me) return no(`${own.owner} owns it`);
  if (own.state === 'migrating') return no('it migrates');
  if (other === undefined || (discard !== me && discard !== other)) return no(`${discard} has no copy of it`);
  if (v.pair?.connection === 'Connected')
    return no('its copies are connected: nothing has to be thrown away');
  if (discard === other) {
    const bad = v.pair?.volumes.find((x) => x.here !== 'UpToDate' && x.here !== 'Consistent');
    if (v.pair === null || bad !== undefined) return no('its own copy cannot be seen to be whole');
    return { ok: true, own: staleFor(own, me) };
  }
  if (own.state !== 'stopped' || v.inUse) return no('it runs from that copy: stop it first');
  if (!v.peerLive) return no(`${other} is not alive`);
  const next = staleFor(own, other);
  const fence = { armed: false, waitMs: 0 };
  return { ok: true, own: { ...next, owner: other, standby: me, gen: own.gen + 1, fence } };
}

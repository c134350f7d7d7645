import type { NodePresence } from '../core/domain/node.js';
import type { Policy } from '../core/domain/ha.js';
import type { VmOwn, VmProtection, VmSpec } from '../core/domain/vm.js';

/** What tells how a VM stands with high availability. */
export interface ProtectionParts {
  readonly spec: Pick<VmSpec, 'ha'>;
  readonly own: VmOwn | null;
  readonly policy: Policy;
  /** Of the owner. */
  readonly presence: NodePresence;
  /** The owner's lease in the ledger stands. */
  readonly ownerLive: boolean;
  /** What the owner says, where it is heard. */
  readonly said: VmProtection | null;
}

/** The owner's own word where it speaks; else what the ledger alone tells. */
export function protectionOf(p: ProtectionParts): VmProtection {
  const { own } = p;
  const standby = own?.lockstep?.twin ?? own?.standby ?? null;
  const say = (state: VmProtection['state'], text: string): VmProtection => ({ state, text, standby });
  if (!p.spec.ha.enabled) return say('off', '');
  if (own === null) return say('unprotected', 'its owner record is missing or cannot be read');
  if (p.policy.ha.paused) return say('paused', 'HA is paused in the whole cluster');
  // Without its lease it decides nothing any more, whatever it said a moment ago or still says.
  if (!p.ownerLive) return say(...goneOwner(own, p.policy));
  // What its owner said before HA was turned on, or by an agent that knows none, is no answer.
  if (p.said !== null && p.said.state !== 'off') return p.said;
  const heard = p.presence === 'here' || p.presence === 'suspect';
  if (!heard)
    return say(
      own.fence.armed && standby !== null ? 'protected' : 'unprotected',
      `its owner ${own.owner} is not heard`,
    );
  return say('unprotected', `${own.owner} has not taken it up yet`);
}

/** Its owner's lease has ended: who takes it, or what keeps it from being taken, as far as the ledger tells. */
function goneOwner(own: VmOwn, policy: Policy): [VmProtection['state'], string] {
  const lost = `its owner ${own.owner} has lost its lease`;
  if (own.lockstep && own.state !== 'stopped') {
    const { state, twin } = own.lockstep;
    return state === 'protected'
      ? ['protected', `${lost}; its twin on ${twin} goes on`]
      : ['unprotected', `${lost}; it had no twin to go on: it comes back with ${own.owner}`];
  }
  if (own.state === 'stopped') return standbyOf(own, `${lost}; it is off`);
  if (!own.fence.armed) {
    return [
      'unprotected',
      `${lost} and was not armed: confirm that it is off with flotilla node confirm-off ${own.owner}`,
    ];
  }
  if (policy.ha.hold) return ['protected', `${lost}; failovers are held until flotilla ha release`];
  return standbyOf(own, lost);
}

const standbyOf = (own: VmOwn, lost: string): [VmProtection['state'], string] =>
  own.standby === null
    ? ['unprotected', `${lost}; it has no standby, any node that can takes it over`]
    : ['protected', `${lost}; its standby ${own.standby} takes it over`];

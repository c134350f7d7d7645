import { protectionLevel } from '../core/domain/ha.js';
import type { VmOwn, VmProtection, VmSpec } from '../core/domain/vm.js';
import type { PairView } from '../core/wire/rest.js';

type Wish = Pick<VmSpec, 'ha'>;

/**
 * The two machines of a VM in lockstep, as far as ledger and owner tell.
 *
 * @param ha - how it stands, with the owner's words
 * @returns null: an ordinary machine, or it is off
 */
export function pairOf(spec: Wish, own: VmOwn | null, ha: VmProtection): PairView | null {
  const pair = own?.lockstep;
  if (!pair || own === null || own.state === 'stopped') return null;
  const { state, twin } = pair;
  const why = ha.text.replace(/^not protected: /, '');
  const more = why === '' ? '' : `: ${why}`;
  return {
    state,
    twin,
    sinceMs: state === 'protected' ? (ha.sinceMs ?? null) : null,
    degraded: state !== 'protected' && protectionLevel(spec.ha) === 'lockstep',
    text:
      state === 'protected'
        ? `its twin on ${twin} goes on if ${own.owner} dies`
        : state === 'preparing'
          ? why || `its twin on ${twin} is being made`
          : `it runs alone on ${own.owner}, with the only good copy of its disk${more}`,
  };
}

/** Its machine runs in lockstep though that is not asked for any more, or the other way round: a start changes it. */
export const levelWaits = (spec: Wish, own: VmOwn | null): boolean =>
  own !== null &&
  own.state !== 'stopped' &&
  (protectionLevel(spec.ha) === 'lockstep') !== Boolean(own.lockstep);

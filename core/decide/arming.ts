import { protectionLevel } from '../domain/ha.js';
import type { VmOwn, VmProtection, VmSpec } from '../domain/vm.js';
import { standbyText, type Reach, type StandbyChoice } from './standby.js';

/**
 * A standby that no longer fits is replaced after this long, ms: one that reboots its agent or misses a few beats
 * is left, so that a shaky network does not rewrite every ownership record. Meanwhile the VM says it is unprotected.
 */
export const standbyPatienceMs = 15_000;

/** What decides whether a VM of this node is to be armed, and for whom. */
export interface ArmingView {
  /** Its HA is paused by the cluster's policy. */
  readonly paused: boolean;
  readonly reach: Reach;
  /** Null: the keeper does not answer. */
  readonly keeper: {
    /** It counts this VM among those that freeze with the node. */
    readonly armed: boolean;
    readonly armable:
      { readonly ok: true; readonly waitMs: number } | { readonly ok: false; readonly why: string };
  } | null;
  readonly standby: StandbyChoice;
  /** For how long the present standby has not fitted, ms; 0: it fits, or there is none. */
  readonly unfitMs: number;
}

export type ArmStep =
  /** The keeper first; when it has petted for the VM, the ledger. */
  | { readonly do: 'arm' }
  /** The ledger first; then the keeper is told. */
  | { readonly do: 'disarm'; readonly why: string }
  | { readonly do: 'set-standby'; readonly node: string | null };

export interface Arming {
  readonly ha: VmProtection;
  /** To be done now; null: all is as it should be, or cannot be mended. */
  readonly step: ArmStep | null;
  /** The node that could take it over now; null: none, or its HA is off. */
  readonly standby: string | null;
  /** A start arms it first. */
  readonly atStart: boolean;
  /** A start puts it in the slice that freezes as a whole. */
  readonly inSlice: boolean;
}

/**
 * How a VM of this node stands with HA, and the next step. `own.fence.armed` may only be true while the keeper has
 * it armed: a standby believes it. @see safety 1
 *
 * @param active - its machine runs here, under the generation of `own`
 */
export function decideArming(spec: VmSpec, own: VmOwn, active: boolean, v: ArmingView): Arming {
  const { keeper } = v;
  // Its twin goes on for it, wherever its disks are: it freezes with its node as all whose owner may change.
  const lockstep = (own.lockstep ?? null) !== null || (!active && protectionLevel(spec.ha) === 'lockstep');
  const wanted = spec.ha.enabled && !v.paused && (v.reach.ok || lockstep);
  // What its standby has may lack writes.
  const behind = v.reach.ok && v.reach.copied && own.sync !== 'ok';
  const say = (state: VmProtection['state'], text = ''): VmProtection => ({
    state,
    text: text.slice(0, 500),
    standby: own.standby,
  });
  const unprotected = (why: string): VmProtection => say('unprotected', `not protected: ${why}`);
  const answer = (ha: VmProtection, step: ArmStep | null): Arming => ({
    ha,
    step,
    standby: wanted && v.standby.ok && !behind ? v.standby.node : null,
    atStart: wanted && keeper?.armable.ok === true,
    inSlice: wanted,
  });
  const armedAnywhere = own.fence.armed || keeper?.armed === true;

  if (!wanted) {
    const why = !spec.ha.enabled
      ? 'its HA is off'
      : v.paused
        ? 'HA is paused'
        : v.reach.ok
          ? ''
          : v.reach.why;
    const ha = !spec.ha.enabled
      ? say('off')
      : v.paused
        ? say('paused', 'HA is paused in the whole cluster')
        : unprotected(why);
    if (armedAnywhere) return answer(ha, { do: 'disarm', why });
    // During a pause the standby stays, so that its end costs nothing.
    // The node of the other copy stays what it is, HA or not.
    const drop = own.standby !== null && own.copies.length === 0 && (!spec.ha.enabled || !v.reach.ok);
    return answer(ha, drop ? { do: 'set-standby', node: null } : null);
  }
  if (keeper === null) return answer(unprotected('the keeper of this node does not answer'), null);
  const { armable } = keeper;
  if (active) {
    if (own.fence.armed && !keeper.armed) {
      const why = armable.ok ? '' : `the keeper of this node would not arm: ${armable.why}`;
      return answer(
        unprotected(why || 'the keeper has to arm it anew'),
        armable.ok ? { do: 'arm' } : { do: 'disarm', why },
      );
    }
    const longer = armable.ok && own.fence.waitMs < armable.waitMs;
    if (armable.ok && (!own.fence.armed || longer))
      return answer(unprotected('it is being armed'), { do: 'arm' });
    if (!own.fence.armed) {
      const why = armable.ok ? '' : armable.why;
      return answer(unprotected(`the keeper of this node would not arm: ${why}`), null);
    }
  } else if (own.state === 'stopped' && armedAnywhere) {
    // What a crash between two steps left: nothing runs, so nothing is to be frozen.
    return answer(say('unprotected', 'it is off'), { do: 'disarm', why: 'it is off' });
  }
  if (lockstep) return answer(unprotected(active ? 'it has no twin' : 'it is off'), null);
  return standbyStep(own, v, { answer, unprotected, well: say('protected'), armable });
}

interface Words {
  answer(ha: VmProtection, step: ArmStep | null): Arming;
  unprotected(why: string): VmProtection;
  readonly well: VmProtection;
  readonly armable: NonNullable<ArmingView['keeper']>['armable'];
}

function standbyStep(own: VmOwn, v: ArmingView, w: Words): Arming {
  const { standby } = v;
  if (standby.ok) {
    if (standby.node === own.standby) {
      if (v.reach.ok && v.reach.copied && own.sync !== 'ok')
        return w.answer(
          w.unprotected(`the copy of its disks on ${own.standby} is not in sync: see its disks`),
          null,
        );
      if (!w.armable.ok && !own.fence.armed)
        return w.answer(w.unprotected(`the keeper of this node would not arm: ${w.armable.why}`), null);
      return w.answer(w.well, null);
    }
    const patient = own.copies.length > 0 || (own.standby !== null && v.unfitMs < standbyPatienceMs);
    const why =
      own.standby === null
        ? 'its standby is being chosen'
        : `its standby ${own.standby} could not take it over just now`;
    return w.answer(w.unprotected(why), patient ? null : { do: 'set-standby', node: standby.node });
  }
  // The named one stays: should it fit again, nothing has to be written.
  return w.answer(w.unprotected(`no node could take it over: ${standbyText(standby)}`), null);
}

import { rotationPhases, type RotationArgs, type RotationPhase } from '../domain/ca-rotation.js';
import type { TrustRecord } from '../domain/certificate.js';
import { FlotillaError } from '../domain/error.js';
import type { OpStep } from '../domain/op.js';

/**
 * So long all must have been far enough before the next step, ms: controllers, commands and tokens on their way, which say
 * nothing of themselves, look at the files every 10 s.
 */
export const rotationSettleMs = 15_000;

/** A node as the decision sees it. */
export interface RotationNode {
  readonly id: string;
  readonly voter: boolean;
  /** Alive in the ledger. */
  readonly live: boolean;
  /** Null: it never said what it trusts. */
  readonly says: TrustRecord | null;
}

export interface RotationView {
  readonly args: RotationArgs;
  readonly cancelAsked: boolean;
  /** SHA-256 of the CA that signs now, and of the other one that is trusted. */
  readonly ca: string;
  readonly otherCa: string | null;
  readonly nodes: readonly RotationNode[];
  /** How long nothing has been waited for in this phase, ms. */
  readonly settledMs: number;
}

/** What is to be done with the cluster's record; each is one transaction with the operation. */
export type RotationAct = 'make' | 'sign' | 'drop' | 'undo';

export interface RotationStep extends OpStep {
  readonly phase: RotationPhase;
  readonly act: RotationAct | null;
  /** Whom it waits for and why, by name. */
  readonly waits: readonly { readonly node: string; readonly why: string }[];
}

/** How far it is. Null: the record speaks of other CAs, so nothing may be done for this operation. */
export function rotationPhase(v: Pick<RotationView, 'args' | 'ca' | 'otherCa'>): RotationPhase | null {
  const { from, to } = v.args;
  if (to === null) return v.ca === from && v.otherCa === null ? 'ready' : null;
  if (v.ca === from && v.otherCa === to) return 'trust';
  if (v.ca === to && v.otherCa === from) return 'sign';
  return v.ca === to && v.otherCa === null ? 'drop' : null;
}

const words: Readonly<Record<RotationPhase, string>> = {
  ready: 'looks whether every node is able to',
  trust: 'all nodes learn of the new CA',
  sign: 'all nodes get certificates of the new CA',
  drop: 'all nodes forget the old CA',
};

/**
 * What comes next in replacing the CA. A step is taken only when every node said that it is far enough for it, so that at
 * each moment any two of them know one another; a voter is always waited for, another node unless a person said otherwise.
 */
export function decideRotation(v: RotationView): RotationStep {
  const phase = rotationPhase(v);
  if (phase === null) {
    const error = new FlotillaError('wrong-state', 'The cluster has other CAs than this operation is about', {
      hint: 'The ledger was restored, or another one was faster. See: flotilla certificate ca.',
    });
    return {
      phase: 'ready',
      act: null,
      waits: [],
      step: 'gave up',
      progress: null,
      end: { state: 'failed', error },
    };
  }
  const nodes = [...v.nodes].sort((a, b) => (a.id < b.id ? -1 : 1));
  const waits = nodes.flatMap((n) => {
    const why = n.voter || n.live || !v.args.without.includes(n.id) ? lack(n, phase, v.args) : null;
    return why === null ? [] : [{ node: n.id, why }];
  });
  const base = { phase, waits, act: null, end: null };
  const at = rotationPhases.indexOf(phase);
  const share = nodes.length === 0 ? 0 : (nodes.length - waits.length) / nodes.length;
  const progress = (at + share) / rotationPhases.length;
  const early = phase === 'ready' || phase === 'trust';
  if (v.cancelAsked && early)
    return {
      ...base,
      act: phase === 'trust' ? 'undo' : null,
      step: phase === 'trust' ? 'the new CA is taken back: the old one signs as ever' : 'nothing was changed',
      progress,
      end: { state: 'cancelled' },
    };
  const late = v.cancelAsked
    ? '; it cannot be cancelled any more, certificates of the new CA are in use'
    : '';
  if (waits.length > 0) {
    const some = waits
      .slice(0, 3)
      .map((w) => `${w.node} ${w.why}`)
      .join(', ');
    const more = waits.length > 3 ? ` and ${waits.length - 3} more` : '';
    return { ...base, step: `${words[phase]}; waits: ${some}${more}${late}`, progress };
  }
  if (phase === 'drop')
    return { ...base, step: 'every node trusts the new CA alone', progress: 1, end: { state: 'done' } };
  if (phase !== 'ready' && v.settledMs < rotationSettleMs)
    return { ...base, step: `${words[phase]}: done, a moment is waited for controllers${late}`, progress };
  const act = ({ ready: 'make', trust: 'sign', sign: 'drop' } as const)[phase];
  const next = rotationPhases[at + 1] ?? phase;
  return { ...base, act, step: `${words[next]}${late}`, progress: (at + 1) / rotationPhases.length };
}

/** What a node lacks for the next step, in words; null: nothing. */
function lack(n: RotationNode, phase: RotationPhase, { from, to }: RotationArgs): string | null {
  if (n.says === null)
    return n.live ? 'has not said yet what it trusts (is it of an older version?)' : 'is not there';
  const gone = n.live ? '' : 'is not there, and ';
  const { trusts, issuer, keys } = n.says;
  const trustsNew = to !== null && trusts.includes(to);
  switch (phase) {
    case 'ready':
      if (!trusts.includes(from)) return `${gone}does not trust the CA that signs`;
      if (issuer !== from) return `${gone}has no certificate of the CA that signs`;
      if (n.voter && !keys.includes(from)) return `${gone}lacks the key of the CA, which voters have`;
      return n.live ? null : 'is not there';
    case 'trust':
      if (!trustsNew) return `${gone}does not trust the new CA yet`;
      return n.voter && !keys.includes(to) ? `${gone}has not fetched the key of the new CA yet` : null;
    case 'sign':
      return issuer === to ? null : `${gone}has no certificate of the new CA yet`;
    case 'drop':
      return trustsNew && !trusts.includes(from) ? null : `${gone}has not forgotten the old CA yet`;
  }
}

import type { FailoverTimeline } from '../../core/domain/ha.js';
import { queuedOp, type Op } from '../../core/domain/op.js';
import type { VmOwn } from '../../core/domain/vm.js';
import type { AgentEnv } from '../env.js';
import type { Subject } from '../vm/ownership.js';

/** Failovers kept in an ownership record. */
const failoversKept = 16;

/** The op of a failover, as it is written with the swap of ownership. */
export function failoverOp(
  env: AgentEnv,
  s: Subject,
  o: { readonly askedBy: string; readonly step: string; readonly args: FailoverTimeline },
): Op {
  const asked = {
    id: env.random.uuid(),
    kind: 'vm.failover',
    subject: { kind: 'vm', id: s.id, name: s.spec.value.name },
    node: null,
    askedBy: o.askedBy,
    args: o.args,
  } as const;
  return { ...queuedOp(asked, env.clock.wallMs()), state: 'running', step: o.step };
}

/** Its last failovers, with one more. */
export const failedOver = (own: VmOwn, wallMs: number): number[] =>
  [...own.failoversMs, wallMs].slice(-failoversKept);

import { restartsKeptMax, type VmMemory, type VmStep } from '../../core/decide/vm-view.js';
import { isNodeFault } from '../../core/decide/node-fault.js';
import type { ErrorRecord } from '../../core/domain/error.js';

/** What the agent remembers after a step that went well. */
export function afterStep(m: VmMemory, step: VmStep, nowMs: number): VmMemory {
  switch (step.do) {
    case 'start':
      return {
        stop: null,
        failure: null,
        armFailedMs: m.armFailedMs,
        note: '',
        crashesMs: step.crashed ? [...m.crashesMs, nowMs].slice(-restartsKeptMax) : m.crashesMs,
      };
    case 'ask-stop':
      return {
        ...m,
        failure: null,
        stop: { sinceMs: m.stop?.sinceMs ?? nowMs, lastAskMs: nowMs, asked: (m.stop?.asked ?? 0) + 1 },
      };
    case 'reset-hung':
      return { ...m, failure: null, crashesMs: [...m.crashesMs, nowMs].slice(-restartsKeptMax) };
    case 'arm':
    case 'disarm':
    case 'set-standby':
      return { ...m, armFailedMs: null };
    case 'settle':
      return { ...m, stop: null, failure: null, note: step.note };
    default:
      return { ...m, failure: null };
  }
}

/** What it remembers after a step that failed. */
export function afterFailure(m: VmMemory, step: VmStep, error: ErrorRecord, nowMs: number): VmMemory {
  const again = m.failure?.error.code === error.code ? m.failure : null;
  const count = (m.failure?.count ?? 0) + 1;
  const ofNode = step.do === 'start' && isNodeFault(error) ? (m.failure?.ofNode ?? 0) + 1 : 0;
  return { ...m, failure: { atMs: nowMs, sinceMs: again?.sinceMs ?? nowMs, count, ofNode, error } };
}

import type {
  BlockJobInfo,
  BlockJobStatus,
  DomainState,
  IoErrorAction,
  JobOperation,
  LifecycleChange,
  PausedReason,
  RunningReason,
  ShutOffReason,
  WatchdogAction,
} from './hypervisor.js';

/*
 * libvirt's numbers as words: the place in the list is the number. A number past the end reads `unknown`, so a
 * newer daemon never makes us say something wrong.
 */

const RUNNING: readonly RunningReason[] = [
  'unknown',
  'booted',
  'migrated',
  'restored',
  'from-snapshot',
  'unpaused',
  'migration-cancelled',
  'save-cancelled',
  'wakeup',
  'crashed',
  'post-copy',
  'post-copy-failed',
];

const PAUSED: readonly PausedReason[] = [
  'unknown',
  'user',
  'migration',
  'save',
  'dump',
  'io-error',
  'watchdog',
  'from-snapshot',
  'shutting-down',
  'snapshot',
  'crashed',
  'starting-up',
  'post-copy',
  'post-copy-failed',
  'api-error',
];

const SHUT_OFF: readonly ShutOffReason[] = [
  'unknown',
  'shutdown',
  'destroyed',
  'crashed',
  'migrated',
  'saved',
  'failed',
  'from-snapshot',
  'daemon',
];

/** State and reason as the daemon numbers them. */
export function domainState(state: number, reason: number): DomainState {
  switch (state) {
    case 1:
      return { state: 'running', reason: RUNNING[reason] ?? 'unknown' };
    case 2:
      return { state: 'blocked', reason: 'unknown' };
    case 3:
      return { state: 'paused', reason: PAUSED[reason] ?? 'unknown' };
    case 4:
      return { state: 'shutting-down', reason: reason === 1 ? 'user' : 'unknown' };
    case 5:
      return { state: 'shut-off', reason: SHUT_OFF[reason] ?? 'unknown' };
    case 6:
      return { state: 'crashed', reason: reason === 1 ? 'panicked' : 'unknown' };
    case 7:
      return { state: 'pm-suspended', reason: 'unknown' };
    default:
      return { state: 'unknown', reason: 'unknown' };
  }
}

const DEFINED = ['added', 'updated', 'renamed', 'from-snapshot'] as const;
const UNDEFINED = ['removed', 'renamed'] as const;
const STARTED = ['booted', 'migrated', 'restored', 'from-snapshot', 'wakeup'] as const;
const SUSPENDED = [
  'paused',
  'migrated',
  'io-error',
  'watchdog',
  'restored',
  'from-snapshot',
  'api-error',
  'post-copy',
  'post-copy-failed',
] as const;
const RESUMED = ['unpaused', 'migrated', 'from-snapshot', 'post-copy', 'post-copy-failed'] as const;
const STOPPED = ['shutdown', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from-snapshot'] as const;
const SHUTDOWN = ['finished', 'guest', 'host'] as const;
const PM_SUSPENDED = ['memory', 'disk'] as const;
const CRASHED = ['panicked', 'crash-loaded'] as const;

/** A life cycle event's two numbers. */
export function lifecycleChange(event: number, detail: number): LifecycleChange {
  switch (event) {
    case 0:
      return { event: 'defined', detail: DEFINED[detail] ?? 'unknown' };
    case 1:
      return { event: 'undefined', detail: UNDEFINED[detail] ?? 'unknown' };
    case 2:
      return { event: 'started', detail: STARTED[detail] ?? 'unknown' };
    case 3:
      return { event: 'suspended', detail: SUSPENDED[detail] ?? 'unknown' };
    case 4:
      return { event: 'resumed', detail: RESUMED[detail] ?? 'unknown' };
    case 5:
      return { event: 'stopped', detail: STOPPED[detail] ?? 'unknown' };
    case 6:
      return { event: 'shutdown', detail: SHUTDOWN[detail] ?? 'unknown' };
    case 7:
      return { event: 'pm-suspended', detail: PM_SUSPENDED[detail] ?? 'unknown' };
    case 8:
      return { event: 'crashed', detail: CRASHED[detail] ?? 'unknown' };
    default:
      return { event: 'unknown', detail: 'unknown' };
  }
}

const BLOCK_JOB = ['unknown', 'pull', 'copy', 'commit', 'active-commit', 'backup'] as const;
const BLOCK_JOB_STATUS = ['completed', 'failed', 'cancelled', 'ready'] as const;
const JOB_OPERATION = [
  'unknown',
  'start',
  'save',
  'restore',
  'migration-in',
  'migration-out',
  'snapshot',
  'snapshot-revert',
  'dump',
  'backup',
  'snapshot-delete',
] as const;
const WATCHDOG = ['none', 'pause', 'reset', 'poweroff', 'shutdown', 'debug', 'inject-nmi'] as const;
const IO_ERROR = ['none', 'pause', 'report'] as const;

export function blockJobType(n: number): BlockJobInfo['type'] {
  return BLOCK_JOB[n] ?? 'unknown';
}
export function blockJobStatus(n: number): BlockJobStatus {
  return BLOCK_JOB_STATUS[n] ?? 'unknown';
}
export function jobOperation(n: number): JobOperation {
  return JOB_OPERATION[n] ?? 'unknown';
}
export function watchdogAction(n: number): WatchdogAction {
  return WATCHDOG[n] ?? 'unknown';
}
export function ioErrorAction(n: number): IoErrorAction {
  return IO_ERROR[n] ?? 'unknown';
}

/**
 * What went wrong, as a stable word. Codes of the daemon that callers act on have their own word; every
 * other refusal of the daemon is `refused` and keeps libvirt's number in {@link LibvirtError.libvirtCode}.
 */
export type LibvirtErrorCode =
  | 'no-such-domain'
  | 'no-such-snapshot'
  | 'no-metadata'
  | 'domain-exists'
  | 'invalid-state'
  | 'invalid-argument'
  | 'invalid-xml'
  | 'unsupported'
  | 'denied'
  | 'busy'
  | 'aborted'
  | 'unsafe-migration'
  | 'block-copy-active'
  | 'device-missing'
  | 'agent-unresponsive'
  | 'agent-failed'
  | 'daemon-timeout'
  | 'refused'
  | 'disconnected'
  | 'deadline'
  | 'overloaded'
  | 'protocol'
  | 'closed';

/**
 * What is known about a call that failed. `refused`: the daemon answered with an error. `not-sent`: the daemon
 * never saw it, so repeating is safe. `unknown`: it was sent and the answer never came (daemon died, deadline),
 * so the effect may or may not have happened: read the state before repeating.
 */
export type CallOutcome = 'refused' | 'not-sent' | 'unknown';

/** The fields of a {@link LibvirtError}; only `code` and `outcome` are always there. */
export interface LibvirtErrorFields {
  readonly code: LibvirtErrorCode;
  readonly outcome: CallOutcome;
  readonly libvirtCode?: number;
  readonly libvirtDomain?: number;
  readonly level?: number;
  readonly procedure?: string;
  readonly domainId?: string;
  readonly cause?: unknown;
}

/**
 * The one error this module throws. Node's native bindings lose libvirt's number, ours keeps it.
 *
 * @see libvirt's virterror.h for the numbers in `libvirtCode` and `libvirtDomain`
 */
export class LibvirtError extends Error {
  readonly code: LibvirtErrorCode;
  readonly outcome: CallOutcome;
  /** libvirt's own number (VIR_ERR_*), 0 when the error did not come from the daemon */
  readonly libvirtCode: number;
  /** libvirt's part that complained (VIR_FROM_*), 0 when the error did not come from the daemon */
  readonly libvirtDomain: number;
  readonly level: number;
  /** the procedure that failed, for example `domainCreateWithFlags` */
  readonly procedure: string | undefined;
  /** uuid of the domain the call was about */
  readonly domainId: string | undefined;

  constructor(message: string, fields: LibvirtErrorFields) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = 'LibvirtError';
    this.code = fields.code;
    this.outcome = fields.outcome;
    this.libvirtCode = fields.libvirtCode ?? 0;
    this.libvirtDomain = fields.libvirtDomain ?? 0;
    this.level = fields.level ?? 0;
    this.procedure = fields.procedure;
    this.domainId = fields.domainId;
  }

  /** true when the same call may succeed later without anyone changing its arguments */
  get retryable(): boolean {
    return RETRYABLE.has(this.code);
  }
}

const RETRYABLE: ReadonlySet<LibvirtErrorCode> = new Set([
  'busy',
  'agent-unresponsive',
  'daemon-timeout',
  'disconnected',
  'deadline',
  'overloaded',
]);

const BY_NUMBER: ReadonlyMap<number, LibvirtErrorCode> = new Map([
  [3, 'unsupported'],
  [8, 'invalid-argument'],
  [27, 'invalid-xml'],
  [28, 'domain-exists'],
  [29, 'denied'],
  [35, 'invalid-xml'],
  [42, 'no-such-domain'],
  [45, 'denied'],
  [55, 'invalid-state'],
  [67, 'unsupported'],
  [68, 'daemon-timeout'],
  [72, 'no-such-snapshot'],
  [74, 'unsupported'],
  [78, 'aborted'],
  [80, 'no-metadata'],
  [81, 'unsafe-migration'],
  [83, 'block-copy-active'],
  [84, 'unsupported'],
  [86, 'agent-unresponsive'],
  [87, 'busy'],
  [88, 'denied'],
  [92, 'invalid-xml'],
  [94, 'denied'],
  [97, 'agent-unresponsive'],
  [99, 'device-missing'],
  [112, 'agent-unresponsive'],
  [113, 'agent-failed'],
]);

/** The word for one of libvirt's error numbers. */
export function codeOfNumber(libvirtCode: number): LibvirtErrorCode {
  return BY_NUMBER.get(libvirtCode) ?? 'refused';
}

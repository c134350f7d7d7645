/**
 * Every refusal and failure that a person or program outside can meet, with the HTTP status the API gives it.
 * The code is the stable part: API, CLI and ledger ops carry the same one. Messages may be reworded.
 */
export const errorStatus = {
  'bad-input': 400,
  'unknown-field': 400,
  'too-large': 413,
  unauthenticated: 401,
  'login-refused': 401,
  'code-wanted': 401,
  'wrong-certificate': 403,
  forbidden: 403,
  'rate-limited': 429,
  'token-unknown': 403,
  'token-expired': 403,
  'token-used-up': 403,
  'not-found': 404,
  'name-taken': 409,
  'wrong-state': 409,
  'edit-conflict': 409,
  'stale-generation': 409,
  'in-use': 409,
  'no-node-fits': 409,
  'no-failover-room': 409,
  'rule-conflict': 409,
  'no-space': 507,
  'no-address-left': 409,
  'address-taken': 409,
  'image-refused': 422,
  'checksum-mismatch': 422,
  'offset-mismatch': 409,
  'needs-stop': 409,
  'not-owner': 409,
  'not-armable': 409,
  'disk-locked': 409,
  'replica-refused': 409,
  'drive-has-data': 409,
  cancelled: 409,
  unsupported: 422,
  'ledger-unavailable': 503,
  'ledger-full': 507,
  'node-unreachable': 503,
  'provider-unreachable': 503,
  'provider-untrusted': 502,
  'pool-unavailable': 503,
  'hypervisor-unavailable': 503,
  'hypervisor-error': 502,
  'tool-failed': 502,
  'guest-agent-unavailable': 409,
  timeout: 504,
  'fence-failed': 502,
  'fence-timeout': 504,
  'stale-view': 503,
  'already-founded': 409,
  'unreadable-record': 500,
  internal: 500,
} as const satisfies Record<string, number>;

/** A stable error code; see {@link errorStatus}. */
export type ErrorCode = keyof typeof errorStatus;

/** What of an error travels: in an op's outcome, in an API answer, on the radio. */
export interface ErrorRecord {
  readonly code: ErrorCode;
  /** What failed, on which object. */
  readonly message: string;
  /** What the reader can do about it. */
  readonly hint: string;
  /** Messages of the lower errors, outermost first. Never holds secrets. */
  readonly causes: readonly string[];
  /** Facts for programs, e.g. the reasons per node of a refused placement. */
  readonly details?: unknown;
}

/**
 * An error that says what failed on which object, why (`cause`), and what to do next (`hint`).
 *
 * @see STYLE: errors say what to do; the chain is printed once, at the edge.
 */
export class FlotillaError extends Error {
  override readonly name = 'FlotillaError';
  readonly code: ErrorCode;
  readonly hint: string;
  readonly details: unknown;

  constructor(code: ErrorCode, message: string, o: { hint: string; cause?: unknown; details?: unknown }) {
    super(message, o.cause === undefined ? undefined : { cause: o.cause });
    this.code = code;
    this.hint = o.hint;
    this.details = o.details;
  }

  /** The HTTP status of this error's code. */
  get status(): (typeof errorStatus)[ErrorCode] {
    return errorStatus[this.code];
  }
}

/** At most this many causes are shown: deeper chains are wrappers of wrappers. */
const causesMax = 8;

/** Turns anything thrown into what may travel. An unknown error becomes `internal`. */
export function errorRecord(error: unknown): ErrorRecord {
  const causes: string[] = [];
  let e: unknown = error instanceof Error ? error.cause : undefined;
  while (e !== undefined && e !== null && causes.length < causesMax) {
    causes.push(e instanceof Error ? e.message : typeof e === 'string' ? e : JSON.stringify(e));
    e = e instanceof Error ? e.cause : undefined;
  }
  if (error instanceof FlotillaError) {
    const { code, message, hint, details } = error;
    return details === undefined ? { code, message, hint, causes } : { code, message, hint, causes, details };
  }
  return {
    code: 'internal',
    message: error instanceof Error ? error.message : String(error),
    hint: 'This is a defect in Flotilla: please report it with the log lines around it.',
    causes,
  };
}

/** Gives back as an exception what travelled as a record. */
export function errorFromRecord(r: ErrorRecord): FlotillaError {
  const cause = r.causes.reduceRight<Error | undefined>(
    (inner, message) => (inner ? new Error(message, { cause: inner }) : new Error(message)),
    undefined,
  );
  return new FlotillaError(r.code, r.message, { hint: r.hint, cause, details: r.details });
}

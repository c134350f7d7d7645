import { errorRecord, FlotillaError, type ErrorCode } from '../../core/domain/error.js';

/** Exit codes: stable, written in docs/cli.md. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  refused: 4,
  unreachable: 5,
  timedOut: 6,
} as const;

/** What each means, for the manual. */
export const exitWords: Readonly<Record<number, string>> = {
  0: 'Done.',
  1: 'It was tried and failed; also an operation that failed or was cancelled.',
  2: 'Wrong usage, or input that is refused as such.',
  3: 'There is no such object.',
  4: 'Refused: a conflict, a wrong state, no room, no right.',
  5: 'Controller, node or ledger out of reach.',
  6: 'Not done in the time given; it may go on.',
  130: 'Ended by Ctrl-C.',
};

/** What an operation ended as, where it was waited for. */
export class OpFailed extends FlotillaError {}

/** The exit code of an error: by its code, so that it is the same whatever the command. */
export function exitCodeOf(error: unknown): number {
  if (!(error instanceof FlotillaError)) return exitCodes.failed;
  if (error instanceof OpFailed) return exitCodes.failed;
  const byCode: Partial<Record<ErrorCode, number>> = {
    'bad-input': exitCodes.usage,
    'unknown-field': exitCodes.usage,
    'too-large': exitCodes.usage,
    'not-found': exitCodes.notFound,
    'ledger-unavailable': exitCodes.unreachable,
    'node-unreachable': exitCodes.unreachable,
    'provider-unreachable': exitCodes.unreachable,
    'pool-unavailable': exitCodes.unreachable,
    'hypervisor-unavailable': exitCodes.unreachable,
    'stale-view': exitCodes.unreachable,
    timeout: exitCodes.timedOut,
    'fence-timeout': exitCodes.timedOut,
    internal: exitCodes.failed,
    'tool-failed': exitCodes.failed,
    'fence-failed': exitCodes.failed,
    'hypervisor-error': exitCodes.failed,
    'unreadable-record': exitCodes.failed,
  };
  return byCode[error.code] ?? exitCodes.refused;
}

/** An error for people: what, why below it, what to do, the code to search for. */
export function errorText(error: unknown): string {
  const r = errorRecord(error);
  const lines = [`flotilla: ${r.message}`];
  r.causes.forEach((c) => lines.push(`  because: ${c}`));
  for (const line of reasonLines(r.details)) lines.push(`  ${line}`);
  lines.push(`  hint: ${r.hint}`, `  code: ${r.code}`);
  return lines.join('\n');
}

/** Reasons per node of a refused placement, a line each. */
function reasonLines(details: unknown): string[] {
  const nodes = (details as { nodes?: { node: string; reasons: { text: string }[] }[] } | null)?.nodes;
  if (!Array.isArray(nodes)) return [];
  return nodes.flatMap((n) => (Array.isArray(n.reasons) ? n.reasons.map((r) => `${n.node}: ${r.text}`) : []));
}

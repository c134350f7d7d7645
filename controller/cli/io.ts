import { FlotillaError } from '../../core/domain/error.js';
import { parseSeconds } from '../../core/domain/units.js';
import type { OpView } from '../../core/wire/rest.js';
import { ApiClient } from './client.js';
import { OpFailed } from './exit.js';
import { newCa, readTarget } from './session.js';
import { facts, table, type Column } from './table.js';

/** The terminal's side of a command. */
export interface Terminal {
  readonly env: NodeJS.ProcessEnv;
  out(text: string): void;
  err(text: string): void;
  /** Bytes to the standard output, as they are. */
  write(bytes: Uint8Array): void;
  /** Cells; null: not a terminal. */
  readonly width: number | null;
  /** Lines; not there: not known. */
  readonly height?: number;
  /** Progress may be drawn. */
  readonly tty: boolean;
  readonly stdin: NodeJS.ReadableStream;
  /** Ends what waits: Ctrl-C. */
  readonly signal: AbortSignal;
}

/** How long a command waits for its operation unless told, s: a large image takes its time. */
export const waitSDefault = 3_600;
/** One question of a longer wait, s. */
const pollS = 10;

/** What commands use: the client, and output as text or JSON. */
export class Io {
  readonly terminal: Terminal;
  json = false;
  private made: ApiClient | null = null;

  constructor(terminal: Terminal) {
    this.terminal = terminal;
  }

  async client(): Promise<ApiClient> {
    this.made ??= new ApiClient(await readTarget(this.terminal.env), (target) =>
      newCa(this.terminal.env, target),
    );
    return this.made;
  }

  close(): void {
    this.made?.close();
  }

  /** The answer: as it came with --json, else as text. */
  show(value: unknown, text: () => string): void {
    this.terminal.out(this.json ? JSON.stringify(value, null, 2) : text());
  }

  list<T>(rows: readonly T[], columns: readonly Column<T>[], none: string): void {
    this.show(rows, () => (rows.length === 0 ? none : table(rows, columns, this.terminal.width)));
  }

  facts(value: unknown, pairs: readonly (readonly [string, string | null])[]): void {
    this.show(value, () => facts(pairs));
  }

  /** A remark beside the answer. */
  say(text: string): void {
    if (!this.json) this.terminal.err(text);
  }

  /** A line that is drawn over itself; only on a terminal. */
  progress(text: string | null): void {
    if (!this.terminal.tty) return;
    const width = (this.terminal.width ?? 80) - 1;
    this.terminal.err(`\r\u001b[K${(text ?? '').slice(0, width)}`);
  }

  /**
   * Follows an operation to its end.
   *
   * @throws OpFailed with the operation's own error; FlotillaError `timeout`
   */
  async follow(op: OpView, o: WaitOptions): Promise<OpView> {
    if (!o.wait) return op;
    const client = await this.client();
    const endMs = Date.now() + parseSeconds(o.timeout, '--timeout') * 1000;
    let now = op;
    while (now.state === 'queued' || now.state === 'running') {
      this.progress(opLine(now));
      const leftS = Math.ceil((endMs - Date.now()) / 1000);
      if (leftS <= 0) {
        this.progress(null);
        throw new FlotillaError(
          'timeout',
          `${op.kind} of "${op.subject.name}" is not done within ${o.timeout}`,
          {
            hint: `It goes on without you: flotilla op watch ${op.id}`,
          },
        );
      }
      now = await client.call('opGet', { params: { op: op.id }, query: { waitS: Math.min(pollS, leftS) } });
    }
    this.progress(null);
    if (now.state === 'done') return now;
    const e = now.error;
    throw new OpFailed(
      e?.code ?? 'cancelled',
      e?.message ??
        `${op.kind} of "${op.subject.name}" was ${now.state}${now.step === '' ? '' : `: ${now.step}`}`,
      {
        hint: e?.hint ?? `See it: flotilla op show ${op.id}`,
        details: e?.details,
        cause: causeOf(e?.causes ?? []),
      },
    );
  }

  /** Reads all of the standard input. */
  async stdin(): Promise<string> {
    let text = '';
    for await (const part of this.terminal.stdin) text += String(part);
    return text;
  }
}

export interface WaitOptions {
  readonly wait: boolean;
  readonly timeout: string;
}

export function opLine(op: OpView): string {
  const share = op.progress === null ? '' : ` ${bar(op.progress)} ${Math.round(op.progress * 100)} %`;
  return `${op.kind} ${op.subject.name}: ${op.state}${share}${op.step === '' ? '' : ` – ${op.step}`}`;
}

/** Twenty cells. */
export function bar(share: number): string {
  const n = Math.round(Math.max(0, Math.min(1, share)) * 20);
  return `${'█'.repeat(n)}${'░'.repeat(20 - n)}`;
}

function causeOf(causes: readonly string[]): Error | undefined {
  return causes.reduceRight<Error | undefined>(
    (inner, message) => new Error(message, inner === undefined ? undefined : { cause: inner }),
    undefined,
  );
}

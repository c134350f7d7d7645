import type { Clock, Log } from '../agent/env.js';
import { errorRecord } from '../core/domain/error.js';
import { auditLineSchema, auditLinesMax, type AuditLetter, type AuditLine } from '../core/wire/audit.js';
import type { AgentAddress } from './api/uploads.js';

/** Lines that wait for a node to take them: half an hour of a busy cluster, about 1 MB. */
const waitingMax = 5_000;
/** Lines are gathered for so long, ms. */
const gatherMs = 500;
/** No node took them: tried again after this, ms. */
const againMs = 10_000;

export interface AuditCopiesParts {
  readonly log: Log;
  readonly clock: Pick<Clock, 'wallMs' | 'sleep'>;
  /** Nodes whose agents are heard, but for this one, in the order in which they are asked. */
  others(): readonly AgentAddress[];
  /** @throws FlotillaError where it was not taken */
  send(node: AgentAddress, letter: AuditLetter, signal: AbortSignal): Promise<void>;
}

/**
 * Puts each line of the audit into the journal of a second node, too: who comes by a controller's node cannot undo what the
 * other one keeps. Nothing waits for that; where no other node is heard, lines wait in a bounded queue. @see safety 12
 */
export class AuditCopies {
  private readonly p: AuditCopiesParts;
  private readonly stopping = new AbortController();
  private waiting: AuditLine[] = [];
  private dropped = 0;
  private run: Promise<void> | null = null;
  private failed = false;

  constructor(p: AuditCopiesParts) {
    this.p = p;
  }

  /** The log to write the audit to; all other lines pass as they are. */
  get log(): Log {
    const { log } = this.p;
    const also =
      (level: 'info' | 'warn' | 'error') =>
      (text: string, fields?: Record<string, unknown>): void => {
        log[level](text, fields);
        if (text === 'audit' && fields !== undefined) this.take(fields);
      };
    return { info: also('info'), warn: also('warn'), error: also('error') };
  }

  /** What is in the queue is lost with the process: the first copy is in this node's journal. */
  async stop(): Promise<void> {
    this.stopping.abort();
    await this.run;
  }

  private take(fields: Record<string, unknown>): void {
    const line = auditLineSchema.safeParse({ atMs: this.p.clock.wallMs(), fields: short(fields) });
    if (!line.success) return this.p.log.warn('a line of the audit has no copy: it is none that nodes take');
    this.waiting.push(line.data);
    if (this.waiting.length > waitingMax) this.dropped += this.waiting.splice(0, 1).length;
    if (this.stopping.signal.aborted) return;
    this.run ??= this.deliver().finally(() => (this.run = null));
  }

  private async deliver(): Promise<void> {
    const { clock, log } = this.p;
    const { signal } = this.stopping;
    await clock.sleep(gatherMs, signal).catch(() => undefined);
    while (this.waiting.length > 0 && !signal.aborted) {
      const lines = this.waiting.slice(0, auditLinesMax);
      const why = await this.offer({ lines });
      if (why === null) {
        const taken = new Set(lines);
        this.waiting = this.waiting.filter((l) => !taken.has(l));
        if (this.failed) log.info('the audit is copied to another node again', { lost: this.dropped });
        this.failed = false;
        this.dropped = 0;
        continue;
      }
      if (!this.failed) log.warn(`the audit is not copied to another node: ${why}`);
      this.failed = true;
      await clock.sleep(againMs, signal).catch(() => undefined);
    }
  }

  /** @returns null: a node has it; else why none has */
  private async offer(letter: AuditLetter): Promise<string | null> {
    let why = 'no other node is heard';
    for (const node of this.p.others()) {
      try {
        await this.p.send(node, letter, this.stopping.signal);
        return null;
      } catch (error) {
        why = errorRecord(error).message;
      }
    }
    return why;
  }
}

/** Names of things are short; what is longer was made up by whoever asked. */
const short = (fields: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(fields).map(([k, v]) => [
      k,
      typeof v === 'object' && v !== null ? short(v as Record<string, unknown>) : String(v).slice(0, 500),
    ]),
  );

import { execa, ExecaError } from 'execa';
import { FlotillaError } from '../../core/domain/error.js';

/** Output of a tool kept for errors and parsing, bytes: `qemu-img check` of a broken image can say a lot. */
const outputBytesMax = 1024 * 1024;

/** A killed process that does not go (its file system hangs) is left behind after this long, ms. */
const leaveAfterMs = 2_000;

export interface ToolOptions {
  readonly signal?: AbortSignal;
  /** Whole run, ms. Leave it out only where `stallMs` stands. */
  readonly deadlineMs?: number;
  /** Ends the run after that long without a byte of output, ms: for work whose length nobody knows. */
  readonly stallMs?: number;
  /** For input from outside: no network, no capabilities, no new privileges, bounded memory and CPU time. */
  readonly jail?: { readonly memoryBytes: number; readonly cpuS: number };
  readonly onOutput?: (text: string) => void;
  /** Written to the tool's standard input. */
  readonly input?: string;
  /** Exit codes besides 0 that are an answer, not a failure. */
  readonly codes?: readonly number[];
  readonly env?: Readonly<Record<string, string>>;
  /**
   * It takes milliseconds and is run often: at the agent's own priority, since the programs that would lower it cost more than
   * it does.
   */
  readonly brief?: true;
  /**
   * Never killed, neither by the deadline nor with the agent: it holds devices still in between (LVM, DRBD), and what is
   * killed there leaves a guest's disk standing. After the deadline it is only no longer waited for.
   */
  readonly finish?: true;
}

export interface ToolResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program; tests put another in its place. */
export interface Tool {
  (file: string, args: readonly string[], o: ToolOptions): Promise<ToolResult>;
}

/**
 * Runs a program without a shell, in the C locale, at low priority. It dies with the agent (`PR_SET_PDEATHSIG`), so
 * that no work of an earlier boot goes on behind the back of the next.
 *
 * @throws FlotillaError `cancelled`: the signal; `timeout`: deadline or stall; `no-space`: the tool said so;
 *   `tool-failed`: any other bad end, with the last lines it wrote as cause
 */
export const runTool: Tool = async (file, args, o) => {
  const name = `${file} ${args[0] ?? ''}`.trim();
  if (o.signal?.aborted) throw cancelled(name, o.signal);
  const stop = new AbortController();
  const end = (why: FlotillaError) => stop.abort(why);
  const timers: NodeJS.Timeout[] = [];
  const onAbort = () => end(cancelled(name, o.signal));
  o.signal?.addEventListener('abort', onAbort, { once: true });
  if (o.deadlineMs !== undefined)
    timers.push(setTimeout(() => end(late(name, o.deadlineMs ?? 0)), o.deadlineMs));
  const stall = o.stallMs === undefined ? null : setTimeout(() => end(late(name, o.stallMs ?? 0)), o.stallMs);
  if (stall) timers.push(stall);

  const [command = file, ...rest] = prefix(o).concat(file, args);
  const child = execa(command, rest, {
    env: { LC_ALL: 'C', ...o.env },
    ...(o.finish === true ? {} : { cancelSignal: stop.signal, forceKillAfterDelay: 500 }),
    maxBuffer: outputBytesMax,
    ...(o.input === undefined ? { stdin: 'ignore' as const } : { input: o.input }),
    // The kernel ends it with the agent; execa would do so by handlers of signals, set up and taken down for each program.
    cleanup: false,
  });
  child.stdout.on('data', (data: Buffer) => {
    stall?.refresh();
    o.onOutput?.(data.toString());
  });
  const gone = new Promise<never>((_, reject) => {
    stop.signal.addEventListener('abort', () => {
      timers.push(setTimeout(() => reject(stop.signal.reason as FlotillaError), leaveAfterMs));
    });
  });
  gone.catch(() => undefined);
  try {
    const r = await Promise.race([child, gone]);
    return { code: 0, stdout: r.stdout, stderr: r.stderr };
  } catch (cause) {
    if (stop.signal.aborted) throw stop.signal.reason as FlotillaError;
    if (!(cause instanceof ExecaError)) throw cause;
    const stdout = String(cause.stdout ?? '');
    const stderr = String(cause.stderr ?? '');
    const code = cause.exitCode;
    if (code !== undefined && o.codes?.includes(code)) return { code, stdout, stderr };
    throw failed(
      name,
      cause.signal === undefined ? `ended with code ${code ?? 'none'}` : `was killed by ${cause.signal}`,
      stderr,
      cause,
    );
  } finally {
    o.signal?.removeEventListener('abort', onAbort);
    for (const t of timers) clearTimeout(t);
  }
};

/** Runs a program that goes on telling until it is ended; tests put another in its place. */
export interface Teller {
  (file: string, args: readonly string[], told: () => void, signal: AbortSignal): Promise<void>;
}

/** As {@link runTool}, of a program that nobody waits for. @returns when it has ended, however it did */
export const followTool: Teller = async (file, args, told, signal) => {
  const [command = file, ...rest] = prefix({ brief: true }).concat(file, args);
  const child = execa(command, rest, {
    env: { LC_ALL: 'C' },
    stdin: 'ignore',
    stderr: 'ignore',
    buffer: false,
    reject: false,
    cancelSignal: signal,
    forceKillAfterDelay: 500,
  });
  child.stdout.on('data', told);
  await child;
};

/** What stands before the command. Without root only the limits can be had. */
function prefix(o: ToolOptions): string[] {
  if (o.finish === true) return [];
  const root = process.getuid?.() === 0;
  const words: string[] = [];
  if (o.jail && root) words.push('unshare', '--net', '--');
  words.push('setpriv', '--pdeathsig', 'KILL');
  if (o.jail) words.push('--no-new-privs');
  if (o.jail && root) words.push('--bounding-set=-all', '--inh-caps=-all');
  words.push('--');
  if (o.jail) words.push('prlimit', `--as=${o.jail.memoryBytes}`, `--cpu=${o.jail.cpuS}`, '--core=0', '--');
  // The agent is the last that may be killed when memory runs out; its tools are among the first.
  if (o.brief !== true) words.push('choom', '-n', '500', '--', 'nice', '-n', '10');
  return words;
}

function cancelled(name: string, signal: AbortSignal | undefined): FlotillaError {
  return new FlotillaError('cancelled', `${name} was cancelled`, {
    hint: 'Nothing half-made was kept; ask again when it is wanted.',
    cause: signal?.reason,
  });
}

function late(name: string, ms: number): FlotillaError {
  return new FlotillaError(
    'timeout',
    `${name} gave no sign of life for ${Math.round(ms / 1000)} s and was ended`,
    {
      hint: 'See whether the pool answers (the node page shows it), then try again.',
    },
  );
}

function failed(name: string, how: string, stderr: string, cause: { shortMessage: string }): FlotillaError {
  const said = stderr.trim().split('\n').slice(-4).join('; ').slice(0, 600);
  const lower = new Error(said === '' ? cause.shortMessage : said);
  if (/No space left on device|Disk quota exceeded/.test(stderr)) {
    return new FlotillaError('no-space', `${name} ran out of space`, {
      hint: 'Make room in the pool or choose another one; nothing half-made was kept.',
      cause: lower,
    });
  }
  if (/Failed to get (shared )?"?\w*"? ?lock|Is another process using the image/.test(stderr)) {
    return new FlotillaError('in-use', `${name}: the file is in use by a running VM`, {
      hint: 'Stop the VM first.',
      cause: lower,
    });
  }
  return new FlotillaError('tool-failed', `${name} ${how}`, {
    hint: 'The cause below is what the tool said.',
    cause: lower,
  });
}

import { execa } from 'execa';
import type { FileHandle } from 'node:fs/promises';
import { withAnonymousFile } from './anonymous-file.js';

/** Of a program's output more than this is no answer, bytes. */
const outputBytesMax = 256 * 1024;

/** How a fence agent ended. */
export interface ProgramEnd {
  /** Null: it was killed. */
  readonly code: number | null;
  readonly stdout: string;
  /** May hold what it was given: to be scrubbed before it goes anywhere. */
  readonly stderr: string;
}

/**
 * Runs a fence agent in a PID namespace of its own. When `signal` comes, or the agent dies, all that it started is
 * killed with it: an order to power off must not arrive after somebody has powered the node on again.
 *
 * @param input - its standard input, the only way by which it gets options
 * @param ca - certificates it shall trust instead of Debian's
 */
export async function runProgram(
  command: readonly string[],
  o: { input: string; ca: string | null; signal: AbortSignal },
): Promise<ProgramEnd> {
  return await withAnonymousFile(o.input, (input) =>
    withAnonymousFile(o.ca ?? '', async (ca) => {
      const r = await execa('setpriv', [...alone, ...command], {
        stdio: [descriptor(input), 'pipe', 'pipe', descriptor(ca)],
        extendEnv: false,
        env: {
          PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
          LC_ALL: 'C.UTF-8',
          PYTHONDONTWRITEBYTECODE: '1',
          ...(o.ca === null ? {} : { REQUESTS_CA_BUNDLE: '/proc/self/fd/3' }),
        },
        cancelSignal: o.signal,
        killSignal: 'SIGKILL',
        maxBuffer: outputBytesMax,
        reject: false,
        cleanup: true,
      });
      const code = r.isCanceled || r.isMaxBuffer ? null : (r.exitCode ?? null);
      return { code, stdout: r.stdout, stderr: r.stderr };
    }),
  );
}

/** Any open descriptor may be inherited; execa's type names 3 to 9 only. */
const descriptor = (file: FileHandle): 3 => file.fd as 3;

const alone: string[] = [
  '--pdeathsig',
  'KILL',
  '--',
  'unshare',
  '--pid',
  '--fork',
  '--kill-child=KILL',
  '--',
];

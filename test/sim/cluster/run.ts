import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { mutations, runNight, type Mutation, type NightResult } from './mutations.js';
import { merge, type Summary } from './summary.js';

/** Runs schedules `first` to `first + count - 1` in as many processes as the machine has cores, and sums up. */
export async function runSchedules(o: {
  readonly first: number;
  readonly count: number;
  readonly nodes: number;
}): Promise<Summary> {
  const workers = Math.max(1, Math.min(availableParallelism(), o.count));
  const parts = Array.from({ length: workers }, (_, i) =>
    part([o.first + i, Math.ceil((o.count - i) / workers), workers, o.nodes]),
  );
  return merge(await Promise.all(parts));
}

/** What a mutation is worth. */
export interface MutationOutcome {
  readonly name: string;
  readonly rule: string;
  /** In the shipped program, by file; empty: in the simulated host. */
  readonly edited: readonly string[];
  /** The violation that showed it; null: none did. */
  readonly found: string | null;
  /** What was seen although the rule held; empty, or a checker cries without need. */
  readonly without: readonly string[];
  readonly simulatedSeconds: number;
  /** The night without the rule, for whoever looks into it. */
  readonly lines: readonly string[];
}

/** Runs mutations, each in a process of its own. @param only - their names; empty: all */
export async function runMutations(only: readonly string[]): Promise<MutationOutcome[]> {
  const wanted = mutations.filter((m) => only.length === 0 || only.includes(m.name));
  const out: MutationOutcome[] = [];
  const rest = [...wanted];
  const worker = async (): Promise<void> => {
    for (let m = rest.shift(); m !== undefined; m = rest.shift()) out.push(await runMutation(m));
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return wanted.flatMap((m) => out.find((o) => o.name === m.name) ?? []);
}

async function runMutation(m: Mutation): Promise<MutationOutcome> {
  const edits = m.edits ?? [];
  const broken = await output('mutant.js', [m.name, JSON.stringify(edits)]).then(
    (text) => JSON.parse(text) as NightResult,
    (error: unknown) => ({ violations: [], simulatedSeconds: 0, lines: [String(error)] }),
  );
  const holds = await runNight(m, false);
  return {
    name: m.name,
    rule: m.rule,
    edited: [...new Set(edits.map((e) => e.file.replace(/js$/, 'ts')))],
    found: broken.violations.find((v) => m.breaks.test(v)) ?? null,
    without: holds.violations,
    simulatedSeconds: broken.simulatedSeconds + holds.simulatedSeconds,
    lines: broken.lines,
  };
}

const part = async (args: readonly number[]): Promise<Summary> =>
  JSON.parse(await output('worker.js', args.map(String))) as Summary;

/** What a program of this folder prints. */
function output(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(import.meta.dirname, program), ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (piece: string) => (text += piece));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) resolve(text);
      else reject(new Error(`${program} ${args[0] ?? ''} of the simulator ended with ${code ?? signal}`));
    });
  });
}

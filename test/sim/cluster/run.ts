import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import path from 'node:path';
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

function part(args: readonly number[]): Promise<Summary> {
  return new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      [path.join(import.meta.dirname, 'worker.js'), ...args.map(String)],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (piece: string) => (text += piece));
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(text) as Summary);
      else reject(new Error(`a worker of the simulator ended with ${code}`));
    });
  });
}

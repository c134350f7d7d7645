import { spawn } from 'node:child_process';
import path from 'node:path';

/** What lockstep costs, and how long clients wait when one of the pair dies. In a network of its own: {@link lockstep-program.ts}. */
export function lockstep(seconds: number, deaths: number): Promise<void> {
  const program = path.join(import.meta.dirname, 'lockstep-program.js');
  const words = ['--enable-source-maps', program, String(seconds), String(deaths)];
  const child = spawn(process.execPath, words, { stdio: 'inherit' });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`it ended with ${code}`))));
  });
}

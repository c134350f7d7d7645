import { mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../../../test/lab/harness.js';
import { median, report, round, say } from './report.js';

/** A lab beside that of anybody who works on this machine. */
const lab = {
  LAB_ID: 'flbenchup',
  LAB_NET: '10.76.0',
  LAB_GUEST_NET: '10.76.100',
  FLOTILLA_PORT: '18443',
  FLOTILLA_SSH_PORT: '12222',
};

async function script(top: string, name: 'up' | 'down'): Promise<number> {
  const startMs = performance.now();
  const r = await run('env', ['-C', top, `scripts/${name}`], { env: lab });
  if (r.code !== 0) throw new Error(`scripts/${name}: exit ${r.code}\n${r.stderr.slice(-2_000)}`);
  return (performance.now() - startMs) / 1000;
}

/** `scripts/up` again, where all is up already. */
export async function up(n: number): Promise<void> {
  const top = process.cwd();
  try {
    say('up: once, to have it up');
    const first = await script(top, 'up');
    say(`up: ${n} times again`);
    const again: number[] = [];
    for (let i = 0; i < n; i++) again.push(await script(top, 'up'));
    report({
      figure: 'up',
      value: median(again),
      unit: 's',
      target: { atMost: 40 },
      n,
      median: median(again),
      compared: { firstWithCachesS: round(first), worstS: round(Math.max(...again)) },
    });
  } finally {
    await script(top, 'down');
  }
}

/** `scripts/up` in a fresh clone with nothing built; Debian packages that the machine has already are kept. */
export async function upFresh(): Promise<void> {
  // In the build folder, since /tmp is memory on some machines.
  const dir = await mkdtemp(path.resolve('build', 'bench-'));
  const top = path.join(dir, 'flotilla');
  try {
    const clone = await run('git', ['clone', '-q', '--no-hardlinks', process.cwd(), top]);
    if (clone.code !== 0) throw new Error(clone.stderr);
    say('up-fresh: minutes');
    const took = await script(top, 'up');
    report({
      figure: 'up-fresh',
      value: took,
      unit: 's',
      target: { atMost: 360 },
      n: 1,
      compared: { debianPackagesOfTheMachine: 'installed before' },
    });
    await script(top, 'down');
  } catch (e) {
    await script(top, 'down').catch(() => 0);
    throw e;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { models, type Model } from './variants.js';

/**
 * Searches every model through: the sound ones must hold in the full state space, and every broken variant must
 * break the property it is there for. A variant that no longer breaks means that the model no longer looks.
 */

const top = path.resolve(import.meta.dirname, '../../../..');
const run = promisify(execFile);
/** What one search may take, s; the longest needs 4 on an idle core. */
const searchSecondsMax = 200;
/** A search that needs more than this has lost its bounds, MB. */
const memoryMbMax = 1024;
/** Deepest path, in steps; pan says so when it was not enough. */
const depthMax = 2_000_000;

// Each search takes a core.
t.jobs = 2;

interface Search {
  text: string;
  /** What pan printed of the violated assertion; none when all properties held. */
  violated: string | undefined;
  /** Steps to the violation, or the longest way without one. */
  steps: number;
  states: number;
}

/** Builds the verifier of a model under these flags, with these flags of its own, and runs it. */
async function search(model: Model, flags: readonly string[], ...build: string[]): Promise<Search> {
  const cwd = path.join(top, 'build/models', [model.name, ...flags].join('-'));
  fs.rmSync(cwd, { recursive: true, force: true });
  fs.mkdirSync(cwd, { recursive: true });
  const options = { cwd, timeout: searchSecondsMax * 1000, killSignal: 'SIGKILL' as const };
  const source = path.join(top, 'test/models', `${model.name}.pml`);
  await run('spin', [...flags.map((f) => `-D${f}`), '-a', source], options);
  // No partial order reduction: every step is a step of the whole. -w: spin's C makes gcc talk.
  const cc = ['-w', '-DSAFETY', '-DNOREDUCE', `-DMEMLIM=${memoryMbMax}`, ...build, '-o', 'pan', 'pan.c'];
  await run('gcc', cc, options);
  const { stdout } = await run('./pan', [`-m${depthMax}`, '-w22'], options);
  // The trail stays, to be read with: spin -t -p -g -k FILE MODEL
  for (const f of fs.readdirSync(cwd)) if (f.startsWith('pan')) fs.rmSync(path.join(cwd, f));
  fs.writeFileSync(path.join(cwd, 'pan.out'), stdout);
  return {
    text: stdout,
    violated: /assertion violated (.*)/.exec(stdout)?.[0],
    steps: Number(/depth reached (\d+)/.exec(stdout)?.[1]),
    states: Number(/(\d+) states, stored/.exec(stdout)?.[1]),
  };
}

const line = (model: Model, flags: readonly string[], s: Search): string =>
  `${[model.name, ...flags].join(' ')}: ${s.states} states, ${s.steps} steps`;

for (const model of models) {
  const source = fs.readFileSync(path.join(top, 'test/models', `${model.name}.pml`), 'utf8');
  const page = fs.readFileSync(path.join(top, 'docs/models.md'), 'utf8');

  for (const flags of model.holds) {
    void t.test([model.name, ...flags, 'holds'].join(' '), async (t) => {
      const s = await search(model, flags, '-O2');
      t.comment(line(model, flags, s));
      t.match(s.text, 'errors: 0', s.violated ?? 'no error');
      t.match(s.text, 'Full statespace search', 'nothing was left out');
      t.notMatch(
        s.text,
        /max search depth too small|Search not completed|out of memory/,
        'the search was not cut',
      );
      // A line that is never reached proves nothing; only the ends of endless loops may be.
      const unreached = [...s.text.matchAll(/^\t\S+\.pml:\d+, state \d+, "(.*)"/gm)].map((m) => m[0]);
      t.same(
        unreached.filter((u) => !u.includes('"-end-"')),
        [],
        'every line was reached',
      );
    });
  }

  for (const { flags, breaks } of model.broken) {
    void t.test([model.name, ...flags, 'breaks', breaks].join(' '), async (t) => {
      // Breadth first, for the shortest way to the mistake. Quick to compile matters more here than quick to run.
      const s = await search(model, flags, '-O0', '-DBFS');
      t.comment(line(model, flags, s));
      t.match(s.text, 'errors: 1', 'an error was found');
      t.ok(s.violated?.includes(model.properties[breaks] ?? 'no such property'), `${breaks}: ${s.violated}`);
      for (const f of flags.map((f) => f.replace(/=.*/, ''))) {
        t.ok(new RegExp(`\\b${f}\\b`).test(source), `${model.name}.pml knows ${f}`);
      }
      t.ok(page.includes(`\`${flags.join(' ')}\``), 'docs/models.md lists it');
    });
  }
}

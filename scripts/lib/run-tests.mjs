// run-tests.mjs [--full] TIER..: runs the compiled tests of each tier, shows progress, counts, and says it in one line.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { createHash } from 'node:crypto';
import { appendFileSync, existsSync, mkdirSync, createWriteStream, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/**
 * Files at the same time. Lab and browser tests share one machine's cores and one lab; they go one by one. The one
 * file of the models runs two searches at a time by itself.
 */
const jobs = { unit: 2, sim: 2, models: 1, web: 1, lab: 1, ft: 1, metal: 1 };
/** Longest time one test file may take, s: many times what the slowest takes, as it is there for those that hang. */
const timeouts = { unit: 300, sim: 900, models: 600, web: 400, lab: 900, ft: 900, metal: 1200 };

function files(dir) {
  const out = [];
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    const p = path.join(dir, e.name);
    if (e.name === 'full' && !full) continue;
    if (e.isDirectory()) out.push(...files(p));
    else if (e.name.endsWith('.test.js')) out.push(p);
  }
  return out.sort();
}

const full = process.argv.includes('--full');
/** Longest time of a file that only `--full` runs, s. */
const fullTimeout = 3 * 3600;
const fullLog = 'build/test/full.log';
/** Stands in the log: what passed with other programs says nothing about these. */
const programs = (() => {
  const hash = createHash('sha256');
  if (existsSync('build/dist'))
    for (const name of readdirSync('build/dist').sort())
      if (name.endsWith('.mjs')) hash.update(readFileSync(path.join('build/dist', name)));
  return hash.digest('hex').slice(0, 12);
})();
/** Files of `--full` that have passed with these programs. */
const done = new Set(
  existsSync(fullLog)
    ? readFileSync(fullLog, 'utf8')
        .split('\n')
        .map((line) => line.split(' '))
        .filter(([, of, what]) => of === programs && what === 'ok')
        .map((words) => words[3])
    : [],
);

let passed = 0;
let failed = 0;
mkdirSync('build/test', { recursive: true });

/** One file in a process of its own: a tap test file prints TAP when node runs it. @returns what it counted */
async function runFile(file, tier) {
  const name = file.replace(/^build\/js\/test\//, '');
  const began = Date.now();
  const isFull = name.includes('/full/');
  const timeoutS = isFull ? fullTimeout : timeouts[tier];
  const child = spawn(process.execPath, ['--enable-source-maps', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      TAP_TIMEOUT: String(timeoutS),
      ...(isFull ? { FULL_PROGRAMS: programs } : {}),
    },
    detached: true,
  });
  const lines = [];
  const read = async (stream) => {
    for await (const line of createInterface({ input: stream })) lines.push(line);
  };
  const reading = [read(child.stdout), read(child.stderr)];
  let late = false;
  let killing;
  const timer = setTimeout(() => {
    late = true;
    // First asked, so that it can clean up after itself.
    child.kill('SIGTERM');
    killing = setTimeout(() => process.kill(-child.pid, 'SIGKILL'), 20_000);
  }, timeoutS * 1000);
  const code = await new Promise((resolve) => child.on('close', (c, signal) => resolve(c ?? signal)));
  clearTimeout(timer);
  clearTimeout(killing);
  await Promise.all(reading);

  let ok = 0;
  let notOk = 0;
  let skipped = 0;
  const shown = [];
  let details = 0; // lines still shown of a failing check
  for (const line of lines) {
    const check = /^( *)(not )?ok \d+(?: - (.*))?$/.exec(line);
    if (check === null) {
      if (details > 0 && line.trim() !== '') {
        details--;
        shown.push(line);
      }
      continue;
    }
    details = 0;
    // A subtest's own line repeats what its checks said.
    const subtest = / # time=/.test(line) || /^ *# /.test(line);
    if (/# (SKIP|TODO)/i.test(line)) skipped++;
    else if (check[2]) {
      if (!subtest) notOk++;
      shown.push(line);
      details = subtest ? 0 : 25;
    } else if (!subtest) ok++;
  }
  if (late) shown.push(`not within ${timeoutS} s`);
  if ((code !== 0 || late) && notOk === 0) notOk = 1; // it crashed, hung, or left something running
  if (ok === 0 && notOk === 0) {
    notOk = 1;
    shown.push('no check was made: that is a failure, not a success');
  }
  if (notOk > 0 && shown.length === 0) shown.push(...lines.slice(-30));
  const seconds = ((Date.now() - began) / 1000).toFixed(1);
  console.log(
    `${notOk > 0 ? 'FAIL' : 'ok  '}   ${name}  ${ok} checks, ${seconds} s${skipped > 0 ? `, ${skipped} SKIPPED` : ''}`,
  );
  for (const line of shown) console.log(`       ${line}`);
  if (isFull) {
    const ended = notOk > 0 ? 'FAIL' : 'ok';
    appendFileSync(
      fullLog,
      `${new Date().toISOString()} ${programs} ${ended} ${name} ${ok} checks ${seconds} s\n`,
    );
  }
  return { ok, notOk, lines };
}

for (const tier of process.argv.slice(2).filter((word) => word !== '--full')) {
  const dir = `build/js/test/${tier}`;
  const list = existsSync(dir) ? files(dir) : [];
  if (tier === 'unit') list.unshift('build/js/test/tidy.test.js');
  // A file that was renamed or deleted leaves its compiled twin behind: it must not go on being "tested".
  const run = list.filter((f) => existsSync(f.replace(/^build\/js\//, '').replace(/\.js$/, '.ts')));
  const began = Date.now();
  console.error(`test   tier ${tier}: ${run.length} files`);
  let ok = 0;
  let notOk = run.length === 0 ? 1 : 0;
  const log = createWriteStream(`build/test/${tier}.tap`);
  const queue = run.filter((f) => !done.has(f.replace(/^build\/js\/test\//, '')));
  if (queue.length < run.length) console.error(`test   ${run.length - queue.length} have passed before`);
  const worker = async () => {
    for (let f = queue.shift(); f !== undefined; f = queue.shift()) {
      const r = await runFile(f, tier);
      ok += r.ok;
      notOk += r.notOk;
      log.write(`# ${f}\n${r.lines.join('\n')}\n`);
    }
  };
  await Promise.all(Array.from({ length: jobs[tier] }, worker));
  log.end();
  passed += ok;
  failed += notOk;
  const seconds = Math.round((Date.now() - began) / 1000);
  console.error(
    `test   tier ${tier}: ${ok} passed, ${notOk} failed, ${seconds} s (all of it: build/test/${tier}.tap)`,
  );
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);

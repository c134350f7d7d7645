// run-tests.mjs TIER..: runs the compiled tests of each tier with tap, shows progress, counts, and says it in one line.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { existsSync, mkdirSync, createWriteStream, readdirSync } from 'node:fs';
import path from 'node:path';

/** Files at the same time. Lab and browser tests share one machine's cores and one lab; they go one by one. */
const jobs = { unit: 2, sim: 2, web: 1, lab: 1 };
/** Longest time one test file may take, s. */
const timeouts = { unit: 120, sim: 300, web: 180, lab: 900 };

function files(dir) {
  const out = [];
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    const p = path.join(dir, e.name);
    if (e.isDirectory()) out.push(...files(p));
    else if (e.name.endsWith('.test.js')) out.push(p);
  }
  return out.sort();
}

let passed = 0;
let failed = 0;
mkdirSync('build/test', { recursive: true });

for (const tier of process.argv.slice(2)) {
  const dir = `build/js/test/${tier}`;
  const list = existsSync(dir) ? files(dir) : [];
  if (tier === 'unit') list.unshift(...['build/js/test/tidy.test.js'].filter((f) => existsSync(f)));
  if (list.length === 0) {
    console.error(`test   no tests in tier ${tier}: that is a failure, not a success`);
    failed++;
    continue;
  }
  // A file that was renamed or deleted leaves its compiled twin behind: it must not go on being "tested".
  const stale = list.filter((f) => !existsSync(f.replace(/^build\/js\//, '').replace(/\.js$/, '.ts')));
  const run = list.filter((f) => !stale.includes(f));
  const began = Date.now();
  console.error(`test   tier ${tier}: ${run.length} files`);
  const log = createWriteStream(`build/test/${tier}.tap`);
  const child = spawn(
    'node_modules/.bin/tap',
    ['run', '--reporter=tap', `--jobs=${jobs[tier]}`, `--timeout=${timeouts[tier]}`, ...run],
    { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '--enable-source-maps' } },
  );
  let ok = 0;
  let notOk = 0;
  let failing = 0; // lines still shown of a failing assertion's details
  for await (const line of createInterface({ input: child.stdout })) {
    log.write(`${line}\n`);
    const file = /^(not )?ok \d+ - (.*?)(?: # time=([\d.]+m?s))?$/.exec(line);
    if (file) {
      const name = file[2].replace(/^build\/js\/test\//, '');
      if (!/# (skip|todo)/i.test(line))
        console.log(`${file[1] ? 'FAIL' : 'ok  '}   ${name}  ${file[3] ?? ''}`);
      if (file[1]) notOk += 0;
      continue;
    }
    const check = /^(\s+)(not )?ok \d+ -? ?(.*)$/.exec(line);
    if (check) {
      if (check[2]) {
        failing = 30;
        console.log(`       ${line.trim()}`);
      } else failing = 0;
      continue;
    }
    if (failing > 0 && line.trim() !== '') {
      failing--;
      console.log(`       ${line}`);
    }
    const total =
      /^# \{ total: (\d+)(?:, pass: (\d+))?(?:, fail: (\d+))?(?:, skip: (\d+))?(?:, todo: (\d+))? \}/.exec(
        line,
      );
    if (total) {
      ok = Number(total[2] ?? 0);
      notOk = Number(total[3] ?? 0);
      if (total[4] || total[5]) console.log(`       ${total[4] ?? 0} skipped, ${total[5] ?? 0} todo`);
    }
  }
  const code = await new Promise((resolve) =>
    child.exitCode === null ? child.on('close', resolve) : resolve(child.exitCode),
  );
  if (code !== 0 && notOk === 0) notOk = 1; // tap itself failed: a crash, a time-out
  if (ok === 0 && notOk === 0) notOk = 1;
  passed += ok;
  failed += notOk;
  console.error(
    `test   tier ${tier}: ${ok} passed, ${notOk} failed, ${Math.round((Date.now() - began) / 1000)} s (all of it: build/test/${tier}.tap)`,
  );
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);

import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, openSync, readSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { WatchdogDevice } from '../../../../agent/keeper/watchdog.js';

void t.test('a pipe: opened by the first pet only, V stops it, a crash does not', async (t) => {
  const pipe = path.join(t.testdir(), 'watchdog');
  execFileSync('mkfifo', [pipe]);
  const reader = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  t.teardown(() => closeSync(reader));
  const read = (): string => {
    const bytes = Buffer.alloc(100);
    try {
      return bytes.toString('latin1', 0, readSync(reader, bytes));
    } catch {
      return '';
    }
  };
  const make = (): WatchdogDevice =>
    new WatchdogDevice({
      devices: [path.join(t.testdirName, 'none'), pipe],
      pipeTimeoutMs: 20_000,
      nowMs: () => 0,
    });
  const w = make();
  t.same(w.info(), { kind: 'pipe', timeoutMs: 20_000, nowayout: false, running: false, fault: null });
  t.equal(read(), '');
  w.pet();
  w.pet();
  t.equal(read(), '..');
  w.disarm();
  t.equal(read(), 'V');
  w.disarm();
  w.pet();
  read();
  w.release();
  t.equal(read(), '', 'let go without a word: it runs on');
  make().disarm();
  t.equal(read(), 'V', 'a later start stops what an earlier one left running');
});

void t.test('a device is judged by sysfs', async (t) => {
  let now = 0;
  const dir = t.testdir();
  const sysfs = path.join(dir, 'watchdog0');
  // Any character device: it is looked at, not opened.
  const w = new WatchdogDevice({ devices: ['/dev/null'], sysfs, pipeTimeoutMs: 1, nowMs: () => now });
  t.match(w.info(), { kind: 'hardware', timeoutMs: null, nowayout: true }, 'in doubt it cannot be stopped');
  mkdirSync(sysfs);
  for (const [name, text] of Object.entries({
    identity: 'Software Watchdog\n',
    timeout: '5\n',
    nowayout: '0\n',
    state: 'inactive\n',
  })) {
    writeFileSync(path.join(sysfs, name), text);
  }
  now += 10_000;
  t.same(w.info(), { kind: 'software', timeoutMs: 5_000, nowayout: false, running: false, fault: null });
  writeFileSync(path.join(sysfs, 'identity'), 'iTCO_wdt\n');
  writeFileSync(path.join(sysfs, 'state'), 'active\n');
  now += 10_000;
  t.match(w.info(), { kind: 'hardware', running: true });
});

void t.test('no device, no watchdog', async (t) => {
  const w = new WatchdogDevice({ devices: ['/nowhere/watchdog'], pipeTimeoutMs: 1, nowMs: () => 0 });
  t.equal(w.info().kind, 'none');
  w.disarm();
  t.throws(() => w.pet());
});

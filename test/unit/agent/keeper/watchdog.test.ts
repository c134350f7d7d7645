import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { SystemdFdStore, type FdStore } from '../../../../agent/keeper/fd-store.js';
import { WatchdogDevice } from '../../../../agent/keeper/watchdog.js';

const yes = (): boolean => true;

/** A pipe in place of the device, and what it was told. */
function pipeOf(t: Test): { pipe: string; read: () => string } {
  const pipe = path.join(t.testdir(), 'watchdog');
  execFileSync('mkfifo', [pipe]);
  const reader = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  t.teardown(() => closeSync(reader));
  const bytes = Buffer.alloc(100);
  const read = (): string => {
    try {
      return bytes.toString('latin1', 0, readSync(reader, bytes));
    } catch {
      return '';
    }
  };
  return { pipe, read };
}

void t.test('a pipe: opened by the first pet only, V stops it, a crash does not', async (t) => {
  const { pipe, read } = pipeOf(t);
  const make = (): WatchdogDevice =>
    new WatchdogDevice({
      devices: [path.join(t.testdirName, 'none'), pipe],
      pipeTimeoutMs: 20_000,
      nowMs: () => 0,
    });
  const w = make();
  t.same(w.info(), {
    kind: 'pipe',
    timeoutMs: 20_000,
    nowayout: false,
    running: false,
    fault: null,
    kept: 'no',
  });
  t.equal(read(), '');
  w.pet();
  w.pet();
  t.equal(read(), '..');
  await w.disarm(yes);
  t.equal(read(), 'V');
  await w.disarm(yes);
  w.pet();
  read();
  w.release();
  t.equal(read(), '', 'let go without a word: it runs on');
  await make().disarm(yes);
  t.equal(read(), 'V', 'a later start stops what an earlier one left running');
});

/** A store whose answers a test gives. */
class HeldStore implements FdStore {
  readonly there = true;
  left: number | null = null;
  fd: number | null = null;
  answer: { put: boolean; remove: boolean } = { put: true, remove: true };
  #go: (() => void)[] = [];

  async put(fd: number): Promise<boolean> {
    await new Promise<void>((resolve) => this.#go.push(resolve));
    if (this.answer.put) this.fd = fd;
    return this.answer.put;
  }

  async remove(): Promise<boolean> {
    await new Promise<void>((resolve) => this.#go.push(resolve));
    if (this.answer.remove) this.fd = null;
    return this.answer.remove;
  }

  async go(): Promise<void> {
    await turns();
    for (const g of this.#go.splice(0)) g();
    await turns();
  }
}

const turns = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

void t.test(
  'kept open by another process: known when it is, and stopped only when it is not any more',
  async (t) => {
    const { pipe, read } = pipeOf(t);
    const store = new HeldStore();
    const make = (): WatchdogDevice =>
      new WatchdogDevice({ devices: [pipe], pipeTimeoutMs: 20_000, nowMs: () => 0, store });
    const w = make();
    w.pet();
    t.equal(w.info().kept, 'soon');
    await store.go();
    t.equal(w.info().kept, 'yes');
    t.notOk(w.info().nowayout);

    const stopped = w.disarm(yes);
    t.match(w.info(), { nowayout: true, running: true }, 'petted on meanwhile');
    await turns();
    t.equal(read(), '.');
    await store.go();
    await stopped;
    t.equal(read(), 'V');
    t.match(w.info(), { nowayout: false, running: false });

    w.pet();
    await store.go();
    read();
    const back = w.disarm(() => false);
    await store.go();
    await store.go();
    await back;
    t.equal(read(), '', 'armed again in the meantime: not stopped');
    t.equal(w.info().kept, 'yes');
    t.ok(store.fd !== null);

    store.answer.remove = false;
    const failed = t.rejects(w.disarm(yes), /does not let go/);
    await store.go();
    await failed;
    t.equal(read(), '', 'V would not stop what another process holds');
    t.match(w.info(), { nowayout: true, running: true }, 'so it is petted on');
    store.answer.remove = true;
    const again = w.disarm(yes);
    await store.go();
    await again;
    t.equal(read(), 'V', 'the next call tries again');
    t.notOk(w.info().nowayout);

    store.answer.put = false;
    w.pet();
    await store.go();
    t.equal(w.info().kept, 'no');
  },
);

void t.test('what the keeper before left open is used, and not petted by that', async (t) => {
  const { pipe, read } = pipeOf(t);
  const store = new HeldStore();
  store.left = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  const w = new WatchdogDevice({ devices: [pipe], pipeTimeoutMs: 20_000, nowMs: () => 0, store });
  t.equal(w.info().kept, 'yes');
  t.equal(read(), '');
  w.pet();
  t.equal(read(), '.');
  const fd = store.left;
  w.release();
  t.throws(() => fstatSync(fd));
});

void t.test('systemd is told by its own program, which inherits the descriptor', async (t) => {
  const { pipe } = pipeOf(t);
  const dir = t.testdirName;
  const program = path.join(dir, 'systemd-notify');
  const said = path.join(dir, 'said');
  writeFileSync(
    program,
    `#!/bin/sh\necho "$*" >>${said}\n[ ! -p /proc/self/fd/3 ] || echo pipe >>${said}\n[ ! -e ${dir}/no ]\n`,
  );
  chmodSync(program, 0o755);
  const before = process.env['PATH'] ?? '';
  process.env['PATH'] = `${dir}:${before}`;
  t.teardown(() => (process.env['PATH'] = before));

  const env = {
    NOTIFY_SOCKET: '/run/x',
    LISTEN_PID: '77',
    LISTEN_FDS: '2',
    LISTEN_FDNAMES: 'other:watchdog',
  };
  t.equal(new SystemdFdStore('watchdog', env, 77).left, 4);
  t.equal(new SystemdFdStore('watchdog', env, 78).left, null, 'not for this process');
  t.equal(new SystemdFdStore('another', env, 77).left, null);
  const store = new SystemdFdStore('watchdog', env);
  const fd = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  t.teardown(() => closeSync(fd));
  t.ok(await store.put(fd));
  t.ok(await store.remove());
  t.same(readFileSync(said, 'utf8').split('\n'), [
    '--fd=3 --fdname=watchdog FDPOLL=0',
    'pipe',
    'FDSTOREREMOVE=1 FDNAME=watchdog',
    '',
  ]);
  writeFileSync(path.join(dir, 'no'), '');
  t.notOk(await store.put(fd));
  t.notOk(await store.remove());

  const none = new SystemdFdStore('watchdog', {});
  t.same([none.there, none.left, await none.put(fd), await none.remove()], [false, null, false, true]);
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
  t.same(w.info(), {
    kind: 'software',
    timeoutMs: 5_000,
    nowayout: false,
    running: false,
    fault: null,
    kept: 'no',
  });
  writeFileSync(path.join(sysfs, 'identity'), 'iTCO_wdt\n');
  writeFileSync(path.join(sysfs, 'state'), 'active\n');
  now += 10_000;
  t.match(w.info(), { kind: 'hardware', running: true });
});

void t.test('no device, no watchdog', async (t) => {
  const w = new WatchdogDevice({ devices: ['/nowhere/watchdog'], pipeTimeoutMs: 1, nowMs: () => 0 });
  t.equal(w.info().kind, 'none');
  await w.disarm(yes);
  t.throws(() => w.pet());
});

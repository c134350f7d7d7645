import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import type { Clock, Log } from '../../../../agent/env.js';
import { bootProbe, bootSector } from '../../../../agent/machine/boot-probe.js';
import { NodeMachine } from '../../../../agent/machine/machine.js';
import { parseMeminfo, parseStat } from '../../../../agent/machine/proc.js';
import { nodeFactsSchema } from '../../../../core/domain/node.js';
import { until } from '../radio/broker.js';

/** The appliance's QEMU where its root has been built, else the machine's. */
function qemu(): string[] {
  const root = resolve('build/root');
  const program = `${root}/usr/bin/qemu-system-x86_64`;
  if (existsSync(program)) {
    const lib = `${root}/usr/lib/x86_64-linux-gnu`;
    const firmware = ['-L', `${root}/usr/share/seabios`, '-L', `${root}/usr/share/qemu`];
    return [
      `${lib}/ld-linux-x86-64.so.2`,
      '--library-path',
      `${lib}:${lib}/pulseaudio`,
      program,
      ...firmware,
    ];
  }
  if (existsSync('/usr/bin/qemu-system-x86_64')) return ['/usr/bin/qemu-system-x86_64'];
  throw new Error('no QEMU: run "images/build root" or install the Debian package qemu-system-x86');
}

const log: Log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const time = { now: 0 };
const naps: number[] = [];
const clock: Clock = {
  nowMs: () => time.now,
  wallMs: () => time.now,
  sleep: async (ms, signal) => {
    naps.push(ms);
    await new Promise((_, no) => signal?.addEventListener('abort', () => no(new Error('aborted'))));
  },
};
const factsProgram = fileURLToPath(new URL('../../../../agent/machine/facts-program.js', import.meta.url));
const node = (code: string): string[] => [process.execPath, '-e', code, '--'];

async function fakeRoot(dir: string, o: { bootId?: string; kvm?: boolean } = {}): Promise<string> {
  await mkdir(`${dir}/proc/sys/kernel/random`, { recursive: true });
  await mkdir(`${dir}/dev`, { recursive: true });
  await mkdir(`${dir}/run`, { recursive: true });
  await writeFile(`${dir}/proc/sys/kernel/random/boot_id`, `${o.bootId ?? 'boot-1'}\n`);
  if (o.kvm !== false) await writeFile(`${dir}/dev/kvm`, '');
  return dir;
}
const machine = (root: string, o: Partial<ConstructorParameters<typeof NodeMachine>[0]> = {}): NodeMachine =>
  new NodeMachine({
    runtimeDir: `${root}/run`,
    root,
    qemu: ['/nonexistent'],
    factsCommand: ['/nonexistent'],
    clock,
    log,
    ...o,
  });

/** Counts how often it is run; boots nothing. */
const countingQemu = (root: string, says: string): string[] => [
  process.execPath,
  '-e',
  `require('fs').appendFileSync(${JSON.stringify(`${root}/runs`)}, 'x'); console.log(${JSON.stringify(says)}); setInterval(() => {}, 1000)`,
  '--',
];

await t.test('the boot sector boots', async (t) => {
  const sector = bootSector();
  t.equal(sector.length, 512);
  t.same([...sector.slice(510)], [0x55, 0xaa]);
  const dir = t.testdir({});
  const done = await bootProbe({ qemu: qemu(), accel: 'tcg', dir, timeoutMs: 60_000 });
  t.same(done, { ok: true, text: '' });
  t.same(await readdir(dir), [], 'nothing is left behind');
});

await t.test('a guest that says nothing, and a QEMU that is not there', async (t) => {
  const dir = t.testdir({});
  const silent = await bootProbe({
    qemu: node('setInterval(() => {}, 1000)'),
    accel: 'kvm',
    dir,
    timeoutMs: 300,
  });
  t.same(silent, { ok: false, text: 'the guest said nothing for 300 ms' });
  const failed = await bootProbe({
    qemu: node('console.error("no KVM here"); process.exit(1)'),
    accel: 'kvm',
    dir,
  });
  t.same(failed, { ok: false, text: 'QEMU ended; no KVM here' });
  const none = await bootProbe({ qemu: ['/nonexistent/qemu'], accel: 'kvm', dir });
  t.match(none, { ok: false, text: /ENOENT/ });
  t.same(await readdir(dir), []);
});

await t.test('the probe is made once per boot of the machine', async (t) => {
  const root = await fakeRoot(t.testdir({}));
  const runs = async () => (await readFile(`${root}/runs`, 'utf8')).length;
  const good = countingQemu(root, 'FLOTILLA BOOT PROBE');
  t.equal(await machine(root, { qemu: good }).accel(), 'kvm');
  const again = machine(root, { qemu: good });
  t.same(await Promise.all([again.accel(), again.accel()]), ['kvm', 'kvm']);
  t.equal(await runs(), 1, 'kept over a restart of the agent');
  await fakeRoot(root, { bootId: 'boot-2' });
  t.equal(await machine(root, { qemu: good }).accel(), 'kvm');
  t.equal(await runs(), 2, 'not over a boot');
  t.equal(await machine(root, { qemu: ['/nonexistent'] }).accel(), 'tcg', 'nor for another QEMU');
  await writeFile(`${root}/run/accel.json`, '{broken');
  t.equal(await machine(root, { qemu: good }).accel(), 'kvm');
  t.equal(await runs(), 3);
});

await t.test('without /dev/kvm nothing is tried; a probe that cannot be made is made later', async (t) => {
  const root = await fakeRoot(t.testdir({}), { kvm: false });
  t.equal(await machine(root, { qemu: countingQemu(root, '') }).accel(), 'tcg');
  t.notOk(existsSync(`${root}/runs`));
  await fakeRoot(root);
  const m = machine(root, { qemu: countingQemu(root, 'FLOTILLA BOOT PROBE'), runtimeDir: `${root}/later` });
  await t.rejects(m.accel(), { code: 'ENOENT' });
  await mkdir(`${root}/later`);
  t.equal(await m.accel(), 'kvm');
});

await t.test('cheap numbers, with the CPU share between two calls', async (t) => {
  const root = await fakeRoot(t.testdir({}));
  const stat = (user: number, idle: number) =>
    writeFile(
      `${root}/proc/stat`,
      `cpu  ${user} 0 0 ${idle} 0 0 0 0 ${user} 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\nbtime 1700000000\n`,
    );
  await writeFile(
    `${root}/proc/meminfo`,
    'MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    400 kB\n',
  );
  await writeFile(`${root}/proc/loadavg`, '0.25 0.10 0.05 1/100 12345\n');
  await stat(100, 300);
  const m = machine(root);
  t.same(await m.use(), {
    cpus: 2,
    cpuUsedPct: 25,
    memoryBytes: 1_024_000,
    memoryUsedBytes: 614_400,
    loadAvg1: 0.25,
    upSinceMs: 1_700_000_000_000,
  });
  time.now += 1_000;
  await stat(190, 310);
  t.equal((await m.use()).cpuUsedPct, 90);
  time.now += 100;
  await stat(190, 410);
  t.equal((await m.use()).cpuUsedPct, 90, 'too soon for a new share');
  time.now += 1_000;
  t.equal((await m.use()).cpuUsedPct, 0);
  const real = parseStat(await readFile('/proc/stat', 'utf8'));
  t.ok(real.cpus > 0 && real.bootMs > 1e12 && real.total >= real.busy);
  t.ok(parseMeminfo(await readFile('/proc/meminfo', 'utf8')).availableBytes > 0);
});

await t.test('facts come from a child process, in the background', async (t) => {
  const m = machine('/', { runtimeDir: t.testdir({}), factsCommand: [process.execPath, factsProgram] });
  t.equal(m.facts(), null);
  naps.length = 0;
  m.start();
  t.teardown(() => m.stop());
  await until('facts', () => m.facts() !== null);
  const facts = nodeFactsSchema.parse(m.facts());
  t.ok(facts.cpuCores > 0 && facts.memoryBytes > 0 && facts.kernel !== '' && facts.os !== '');
  t.same(m.health(), { part: 'hardware facts', ok: true, text: '' });
  await until('a nap', () => naps.length === 1);
  t.same(naps, [600_000]);
});

await t.test('facts that take longer than they may are given more time', async (t) => {
  const { stdout } = await promisify(execFile)(process.execPath, [factsProgram]);
  const late = `setTimeout(() => process.stdout.write(${JSON.stringify(stdout)}), 500)`;
  // Sleeps no time: the next try is at once.
  const hasty = { ...clock, sleep: () => new Promise<void>((on) => setImmediate(on)) };
  const m = machine('/', { factsCommand: node(late), factsDeadlineMs: 20, clock: hasty });
  m.start();
  t.teardown(() => m.stop());
  await until('facts', () => m.facts() !== null);
  t.ok(m.health().ok);
});

await t.test('facts that cannot be had are none, with words, and are asked for again sooner', async (t) => {
  for (const [code, says] of [
    ['process.stdout.write("{broken")', /cannot be collected/],
    ['process.stdout.write(JSON.stringify({ cpuModel: 7 }))', /cpuModel/],
    ['process.stdout.write("x".repeat(5_000_000))', /maxBuffer/],
    ['process.exit(3)', /cannot be collected/],
  ] as const) {
    naps.length = 0;
    const m = machine('/', { factsCommand: node(code) });
    m.start();
    await until('a try', () => naps.length === 1);
    t.equal(m.facts(), null);
    t.match(m.health(), { ok: false, text: says });
    t.same(naps, [60_000]);
    m.stop();
  }
});

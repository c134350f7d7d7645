import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { CgroupFreezer } from '../../../../agent/keeper/freezer.js';
import { until } from '../ledger/real-etcd.js';

/** The kernel's freezer, in a group of this test's own. Needs root and cgroup v2 anywhere. */

const mount = readFileSync('/proc/mounts', 'utf8')
  .split('\n')
  .map((l) => l.split(' '))
  .find(([, , type]) => type === 'cgroup2')?.[1];
if (mount === undefined) throw new Error('this machine mounts no cgroup v2');
const base = path.join(mount, `flotilla-freezer-${process.pid}`);
const children: ChildProcess[] = [];

t.teardown(async () => {
  writeFileSync(path.join(base, 'cgroup.kill'), '1');
  await until('the groups to be empty', () => removed(base));
});

function removed(dir: string): boolean {
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    if (e.isDirectory() && !removed(path.join(dir, e.name))) return false;
  }
  try {
    rmdirSync(dir);
    return true;
  } catch {
    return false;
  }
}

/** A machine as libvirt makes it: a scope, a group in it, and a process that never rests. */
function machine(vm: string, inSlice: boolean): number {
  const scope = `machine-qemu\\x2d1\\x2d${vm}.scope`;
  const dir = path.join(base, ...(inSlice ? ['machine-ha.slice'] : []), scope, 'libvirt');
  mkdirSync(dir, { recursive: true });
  const join = `echo $$ >'${dir}/cgroup.procs'; while :; do :; done`;
  const child = spawn('sh', ['-c', join, 'qemu', '-name', 'x', '-uuid', vm.toUpperCase()], {
    stdio: 'ignore',
  });
  children.push(child);
  return child.pid ?? 0;
}

const used = (pid: number): number => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
};
const moves = (pid: number): Promise<void> => {
  const before = used(pid);
  return until(`process ${pid} to go on`, () => used(pid) > before, 10_000);
};
const stands = async (pid: number): Promise<boolean> => {
  const before = used(pid);
  await moves(busy);
  await moves(busy);
  return used(pid) === before;
};

mkdirSync(base);
const freezer = new CgroupFreezer({ base });
const [a, b, out] = ['a', 'b', 'c'].map((x) => `${x.repeat(8)}-0000-4000-8000-000000000000`) as [
  string,
  string,
  string,
];
const pidA = machine(a, true);
const pidB = machine(b, true);
const pidOut = machine(out, false);
const busy = machine('dddddddd-0000-4000-8000-000000000000', false);

await t.test('machines are known by the uuid of their process', async (t) => {
  await until('all to be in their groups', async () => (await freezer.machines()).length === 4);
  t.same(
    [...(await freezer.machines())].sort((x, y) => (x.vm < y.vm ? -1 : 1)).map((m) => [m.vm, m.inSlice]),
    [
      [a, true],
      [b, true],
      [out, false],
      ['dddddddd-0000-4000-8000-000000000000', false],
    ],
  );
});

await t.test('the slice as a whole, and named ones outside it; others go on', async (t) => {
  t.same(await freezer.freeze([a, b, out]), []);
  for (const pid of [pidA, pidB, pidOut]) t.ok(await stands(pid));
});

await t.test('what comes to life in the frozen slice is born frozen', async (t) => {
  const late = 'eeeeeeee-0000-4000-8000-000000000000';
  const pid = machine(late, true);
  await until('it to be there', async () =>
    (await freezer.machines()).some((m) => m.inSlice && m.vm === late),
  );
  t.same(await freezer.freeze([]), []);
  t.ok(await stands(pid));
});

await t.test('thawed but for those that are held', async (t) => {
  await freezer.thaw([b]);
  for (const pid of [pidA, pidOut]) await moves(pid);
  t.ok(await stands(pidB));
  await freezer.thaw([]);
  await moves(pidB);
});

await t.test('killed while frozen, and only that one', async (t) => {
  await freezer.freeze([]);
  await freezer.kill(a);
  await until('its end', () => children[0]?.signalCode === 'SIGKILL');
  t.notOk((await freezer.machines()).some((m) => m.vm === a));
  t.equal(children[1]?.signalCode, null);
  await freezer.thaw([]);
  await moves(pidB);
});

await t.test('no machine, no slice: nothing to freeze, and no error', async (t) => {
  const empty = new CgroupFreezer({ base: path.join(base, 'empty.slice') });
  t.same(await empty.machines(), []);
  t.same(await empty.freeze(['x']), []);
  await empty.thaw(['x']);
  await empty.kill('x');
});

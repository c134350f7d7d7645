import { readFile } from 'node:fs/promises';
import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/**
 * Snapshots of a guest that writes all the time, on pools of files with a real QEMU. It writes a count to one disk, flushes, then to
 * the other: at any one moment the first is as far as the second, or one ahead.
 */

const c = new LabCluster({ id: 'flsnap', net: '10.75.0', guestNet: '10.75.100' });
const { lab } = c;
t.teardown(() => c.down());

await c.up(1);
await c.must('POST', 'pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/var/lib/flotilla/pools/local' });
await waitFor('the pools are well', async () => {
  const { body } = await c.get<{ items: { use: { ok: boolean }[] }[] }>('pools');
  return body.items.length === 2 && body.items.every((p) => p.use.length === 1 && p.use.every((u) => u.ok));
});
await c.image('tiny', 'local', await readFile('build/images/tiny.qcow2'));

type Change = { op: Op; vm: { id: string } };
interface Seen {
  readonly name: string;
  readonly state: string;
  readonly consistency: string;
  readonly usedBytes: number | null;
  readonly disks: readonly { readonly id: string; readonly format: string }[];
}

const size = 8 * 1024 * 1024;
const userData = `#!/bin/sh
n=$(dd if=/dev/vdb bs=512 count=1 2>/dev/null | tr -dc 0-9)
echo "COUNT found \${n:-0}"
while :; do
  n=$((\${n:-0} + 1))
  for d in b c; do
    printf '%-511d\\n' "$n" | dd of=/dev/vd$d bs=512 count=1 conv=fsync,notrunc 2>/dev/null
  done
  echo "COUNT at $n"
done
`;
const { op, vm } = await c.must<Change>('POST', 'vms', {
  name: 'web',
  memoryMiB: 96,
  disks: [
    { name: 'root', pool: 'local', image: 'tiny' },
    { name: 'b', pool: 'local', format: 'raw', sizeBytes: size },
    { name: 'c', pool: 'shared', format: 'qcow2', sizeBytes: size },
  ],
  cloudInit: { hostname: 'web', userData },
  power: 'running',
});
const said = async (): Promise<string> =>
  lab.sh('n1', `cat /var/lib/flotilla/consoles/${vm.id}.log 2>/dev/null || true`);
const count = async (): Promise<number> =>
  Number([...(await said()).matchAll(/COUNT at (\d+)/g)].at(-1)?.[1] ?? 0);
const beyond = (n: number): Promise<boolean> =>
  waitFor(`the guest counts beyond ${n}`, async () => (await count()) > n, { limitMs: 120_000 });
const ended = async (o: { op: { id: string } }): Promise<Op> => c.opEnd(o.op);
const list = async (): Promise<readonly Seen[]> =>
  (await c.get<{ items: Seen[] }>('vms/web/snapshots')).body.items;
/** What stands on the two disks of the VM, which is off. */
const written = async (): Promise<{ b: number; c: number }> => {
  const { body } = await c.get<{ items: { id: string; name: string; format: string; poolName: string }[] }>(
    'disks?vm=web',
  );
  const read = async (name: string): Promise<number> => {
    const d = body.items.find((x) => x.name === name);
    const dir = d?.poolName === 'local' ? '/var/lib/flotilla/pools/local' : '/srv/shared';
    return Number(
      await lab.sh(
        'n1',
        `qemu-img dd -f ${d?.format} -O raw bs=512 count=1 if=${dir}/disks/${d?.id}.${d?.format} of=/run/head && tr -dc 0-9 </run/head`,
      ),
    );
  };
  return { b: await read('b'), c: await read('c') };
};
const offAndBack = async (snapshot: string, body: object): Promise<Op> => {
  t.equal((await ended(await c.must<Change>('POST', 'vms/web/actions/force-stop'))).state, 'done');
  await c.untilPhase('web', 'stopped');
  return ended(await c.must<Change>('POST', `vms/web/snapshots/${snapshot}/revert`, body));
};

await t.test('of a guest that writes: all disks of one moment, and the guest goes on', async (t) => {
  t.equal((await c.opEnd(op)).state, 'done');
  await beyond(5);
  const before = await count();
  const taken = await ended(await c.must<Change>('POST', 'vms/web/snapshots', { name: 'first' }));
  t.equal(taken.state, 'done', JSON.stringify(taken.error));
  const after = await count();
  await beyond(after + 5);
  t.match(await list(), [{ name: 'first', state: 'ready', consistency: 'crash' }]);
  t.ok(((await list())[0]?.usedBytes ?? 0) > 1024 * 1024);
  t.equal(
    await lab.sh('n1', `virsh domblklist ${vm.id} | grep -c snapshots || true`),
    '0',
    'no mirror is left',
  );
  const back = await offAndBack('first', { snapshotBefore: true });
  t.equal(back.state, 'done', JSON.stringify(back.error));
  const there = await written();
  t.ok(there.b >= before && there.b <= after + 1, `${there.b}, of ${before} to ${after}`);
  t.ok(there.b === there.c || there.b === there.c + 1, `${there.b} and ${there.c}`);
  t.equal((await list()).length, 2);
  const start = await c.must<Change>('POST', 'vms/web/actions/start');
  t.equal((await ended(start)).state, 'done');
  await waitFor('it goes on from there', async () => (await said()).includes(`COUNT found ${there.b}`), {
    limitMs: 120_000,
  });
});

await t.test('the agent killed in the middle: it is taken all the same, and the guest goes on', async (t) => {
  const { op: o } = await c.must<Change>('POST', 'vms/web/snapshots', { name: 'second' });
  await waitFor('it has begun', async () => (await c.get<Op>(`ops/${o.id}`)).body.state === 'running');
  await lab.sh('n1', 'systemctl kill -s KILL flotilla-agent');
  const taken = await c.opEnd(o);
  t.equal(taken.state, 'done', JSON.stringify(taken.error));
  await c.untilPhase('web', 'running');
  await beyond(await count());
  for (const dev of ['vda', 'vdb', 'vdc'])
    t.match(await lab.sh('n1', `virsh blockjob ${vm.id} ${dev} 2>&1`), /No current block job/);
});

await t.test('off: copied as it is; all of them deleted, no file is left', async (t) => {
  t.equal((await ended(await c.must<Change>('POST', 'vms/web/actions/force-stop'))).state, 'done');
  await c.untilPhase('web', 'stopped');
  const taken = await ended(await c.must<Change>('POST', 'vms/web/snapshots', { name: 'third' }));
  t.equal(taken.state, 'done', JSON.stringify(taken.error));
  t.ok((await list()).some((x) => x.name === 'third' && x.consistency === 'stopped'));
  for (const x of await list()) await c.must('DELETE', `vms/web/snapshots/${encodeURIComponent(x.name)}`);
  await waitFor('all are gone', async () => (await list()).length === 0);
  t.equal(
    await lab.sh(
      'n1',
      'ls -A /var/lib/flotilla/pools/local/snapshots /srv/shared/snapshots | grep -c -- - || true',
    ),
    '0',
  );
});

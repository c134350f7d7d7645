import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/** Disks of a VM that runs: moved by QEMU under a guest that writes, flushes and says so; taken out and put back. */

const c = new LabCluster({ id: 'fldisk', net: '10.77.20', guestNet: '10.77.120' });
const { lab } = c;
t.teardown(() => c.down());

await c.up(1);
await c.must('POST', 'pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/var/lib/flotilla/pools/local' });
await waitFor('the pools are known', async () => {
  const { body } = await c.get<{ items: { name: string; use: { ok: boolean }[] }[] }>('pools');
  return body.items.length === 2 && body.items.every((p) => p.use.length === 1 && p.use.every((u) => u.ok));
});
await c.image('tiny', 'shared', await readFile('build/images/tiny.qcow2'));

const MiB = 2 ** 20;
/** Counts on its second disk, flushed, and only then says how far it is. */
const script = `#!/bin/sh
n=$(dd if=/dev/vdb bs=4096 count=1 2>/dev/null | tr -d '\\000' | grep -oE '^[0-9]+$' | head -n 1)
echo "FOUND \${n:-0}"
n=\${n:-0}
while :; do
  n=$((n + 1))
  printf '%-4095d\\n' "$n" | tr ' ' '\\000' | dd of=/dev/vdb bs=4096 count=1 iflag=fullblock conv=fsync,notrunc 2>/dev/null && echo "WROTE $n"
  sleep 0.1
done
`;
type Change = { op: Op; vm: { id: string; spec: { disks: { disk: string }[] } } };
type Seen = { disks: { id: string; name: string; format: string; pool: string }[] };

const made = await c.must<Change>('POST', 'vms', {
  name: 'mover',
  memoryMiB: 96,
  disks: [
    { name: 'root', pool: 'shared', image: 'tiny', mode: 'linked' },
    { name: 'data', pool: 'shared', format: 'raw', sizeBytes: 256 * MiB },
  ],
  cloudInit: { userData: script },
});
const { id } = made.vm;

const consoleText = (): Promise<string> =>
  lab.sh('n1', `cat /var/lib/flotilla/consoles/${id}.log 2>/dev/null || true`);
const wrote = async (): Promise<number> =>
  Number([...(await consoleText()).matchAll(/WROTE (\d+)/g)].at(-1)?.[1] ?? 0);
const goesOn = async (): Promise<void> => {
  const before = await wrote();
  await waitFor('the guest writes on', async () => (await wrote()) > before + 2, { limitMs: 120_000 });
};
const starts = async (): Promise<number> =>
  Number(await lab.sh('n1', `grep -c 'starting up libvirt' /var/log/libvirt/qemu/${id}.log`));
const blocks = (): Promise<string> => c.virsh('n1', 'domblklist', id);
const job = (): Promise<string> => lab.sh('n1', `virsh blockjob ${id} vdb --raw 2>&1 || true`);
const files = (pool: 'shared' | 'local'): Promise<string> =>
  lab.sh(
    'n1',
    `ls -A ${pool === 'shared' ? '/srv/shared' : '/var/lib/flotilla/pools/local'}/disks 2>/dev/null || true`,
  );
const move = (disk: string, body: object): Promise<Change> =>
  c.must<Change>('POST', `vms/mover/disks/${disk}/move`, body);
const disk = async (name: string): Promise<Seen['disks'][number]> => {
  const { body } = await c.get<Seen>('vms/mover');
  const found = body.disks.find((d) => d.name === name);
  if (found === undefined) throw new Error(`no disk ${name}`);
  return found;
};

/** The end of an operation may be heard before what it wrote has been read. */
const placed = (name: string, as: (d: Seen['disks'][number]) => boolean) =>
  waitFor(`disk ${name} as it is now`, async () => {
    const d = await disk(name);
    return as(d) ? d : null;
  });

await t.test('a guest that writes', async (t) => {
  t.equal((await c.opEnd(made.op)).state, 'done');
  // Holes would be copied in no time.
  const { id: data } = await disk('data');
  await lab.sh('n1', `dd if=/dev/zero of=/srv/shared/disks/${data}.raw bs=1M count=256 conv=notrunc,fsync`);
  const start = await c.must<Change>('POST', 'vms/mover/actions/start');
  t.equal((await c.opEnd(start.op)).state, 'done');
  await waitFor('the guest writes', async () => (await wrote()) > 3, { limitMs: 120_000 });
});

await t.test('a disk moves to another pool while the guest writes', async (t) => {
  const was = await disk('data');
  const { op } = await move('data', { pool: 'local' });
  t.match(await c.opEnd(op), { state: 'done', step: 'is on pool "local"' });
  await goesOn();
  const now = await placed('data', (d) => d.id !== was.id);
  t.match(await blocks(), new RegExp(`vdb +/var/lib/flotilla/pools/local/disks/${now.id}.raw`));
  await waitFor('the old file is gone', async () => !(await files('shared')).includes(was.id));
  t.match(
    await c.virsh('n1', 'dumpxml', id),
    new RegExp(`alias name='ua-disk-${was.id}'`),
    'the same device',
  );
  t.equal(await starts(), 1);
});

await t.test('a linked clone becomes a disk of its own, raw, by the command line', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'flotilla-disks-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const r = await c.cli(dir, 'vm', 'move-disk', 'mover', 'root', '--pool', 'local', '--format', 'raw');
  t.equal(r.code, 0, r.text);
  const root = await placed('root', (d) => d.format === 'raw');
  await waitFor('the old one is gone', async () => (await files('shared')).trim() === '');
  const same = `/var/lib/flotilla/pools/local/disks/${root.id}.raw`;
  t.match(await blocks(), new RegExp(`vda +${same}`));
  await goesOn();
});

await t.test('cancelled in the middle: nothing is left', async (t) => {
  const { op } = await move('data', { pool: 'shared', limitBps: MiB });
  await waitFor('QEMU copies', async () => /Block Copy|type=/i.test(await job()));
  await waitFor('it says how far it is', async () => {
    const { body } = await c.get<Op>(`ops/${op.id}`);
    return (body.progress ?? 0) > 0 && /left/.test(body.step);
  });
  await c.must('POST', `ops/${op.id}/cancel`);
  t.equal((await c.opEnd(op)).state, 'cancelled');
  await waitFor('no file is left', async () => (await files('shared')).trim() === '');
  t.notMatch(await c.virsh('n1', 'dumpxml', id), /<mirror/);
  await goesOn();
});

await t.test('the agent killed in the middle: the copying is found again', async (t) => {
  const { op } = await move('data', { pool: 'shared', limitBps: 12 * MiB });
  await waitFor('QEMU copies', async () => /<mirror/.test(await c.virsh('n1', 'dumpxml', id)));
  const target = async (): Promise<string> =>
    /<mirror [^>]*>[\s\S]*?<source file='([^']+)'/.exec(await c.virsh('n1', 'dumpxml', id))?.[1] ?? '';
  const to = await target();
  await lab.sh('n1', 'systemctl kill -s KILL flotilla-agent');
  t.equal(await target(), to, 'QEMU goes on');
  t.equal((await c.opEnd(op)).state, 'done');
  t.match(await blocks(), new RegExp(`vdb +${to}`), 'to where it had begun');
  await goesOn();
  await waitFor('the old file is gone', async () => (await files('local')).trim().split('\n').length === 1);
  t.equal(await starts(), 1);
});

await t.test('a disk is taken out with its data, grows and comes back', async (t) => {
  const more = await c.must<Change>('PATCH', 'vms/mover', {
    addDisks: [{ name: 'spare', pool: 'local', format: 'raw', sizeBytes: 16 * MiB }],
  });
  t.equal((await c.opEnd(more.op)).state, 'done');
  const spare = await disk('spare');
  await waitFor('it is in the machine', async () => (await blocks()).includes(spare.id));
  const out = await c.must<Change>('PATCH', 'vms/mover', { detachDisks: ['spare'] });
  t.equal((await c.opEnd(out.op)).state, 'done');
  t.notMatch(await blocks(), new RegExp(spare.id));
  t.match(await files('local'), new RegExp(spare.id), 'its data stay');
  const back = await c.must<Change>('PATCH', 'vms/mover', { attachDisks: ['spare'] });
  t.equal((await c.opEnd(back.op)).state, 'done');
  t.match(await blocks(), new RegExp(spare.id));
  const grow = await c.must<Change>('PATCH', 'vms/mover', {
    growDisks: [{ disk: 'spare', sizeBytes: 32 * MiB }],
  });
  t.equal((await c.opEnd(grow.op)).state, 'done');
  t.match(await c.virsh('n1', 'domblkinfo', id, 'vdc'), /Capacity: +33554432/);
  const gone = await c.must<Change>('PATCH', 'vms/mover', { removeDisks: ['spare'] });
  t.equal((await c.opEnd(gone.op)).state, 'done');
  t.notMatch(await files('local'), new RegExp(spare.id));
});

await t.test('moved while off, into another format; the guest finds all that it wrote', async (t) => {
  const stop = await c.must<Change>('POST', 'vms/mover/actions/force-stop');
  t.equal((await c.opEnd(stop.op)).state, 'done');
  const last = await wrote();
  const { op } = await move('data', { pool: 'local', format: 'qcow2' });
  t.equal((await c.opEnd(op)).state, 'done');
  await placed('data', (d) => d.format === 'qcow2');
  await waitFor('the old file is gone', async () => (await files('shared')).trim() === '');
  const start = await c.must<Change>('POST', 'vms/mover/actions/start');
  t.equal((await c.opEnd(start.op)).state, 'done');
  const found = await waitFor(
    'the guest looks',
    async () => [...(await consoleText()).matchAll(/FOUND (\d+)/g)][1]?.[1],
    { limitMs: 120_000 },
  );
  t.ok(Number(found) >= last, `${found} of ${last}`);
  t.comment(`the guest was told of ${last} writes and finds ${found}`);
});

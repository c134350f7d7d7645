import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { exitCodes } from '../../../controller/cli/exit.js';
import { snapshotArgs } from '../../../core/domain/vm-snapshot.js';
import { ledger as kinds, readRecord } from '../../../core/wire/ledger-keys.js';
import { descriptorOf } from '../../../core/ovf/export.js';
import { folder, manifestOf, tarOf } from '../agent/ovf/make.js';
import { lab } from './cli-rig.js';

/** The way of an export from its request to the file on the disk of whoever asked. */

const descriptor = descriptorOf({
  spec: { name: 'web', note: '', cpus: 1, memoryMiB: 256, firmware: 'bios', cdroms: [] },
  disks: [{ bus: 'virtio', name: 'root', capacityBytes: 1048576, href: 'web-disk1.vmdk', storedBytes: 3000 }],
  nics: [],
});
const vmdk = Buffer.alloc(3000, 'disk');
const files = { 'web.ovf': descriptor, 'web-disk1.vmdk': vmdk };
const archive = (manifest = manifestOf(files)): Buffer =>
  tarOf([
    { name: 'web.ovf', data: descriptor },
    { name: 'web.mf', data: manifest },
    { name: 'web-disk1.vmdk', data: vmdk },
  ]);

void t.test('a VM that is off becomes a file, or a folder', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const dir = await folder(t, {});
  t.match(await l.run('vm', 'create', 'web', '--disk', 'size=1GiB'), { code: 0 });
  const first = (await l.r.call('POST', '/api/v1/vms/web/export')) as {
    status: number;
    body: { op: { id: string } };
  };
  t.equal(first.status, 202);
  // The node has not packed it before the command asks: all exports are this one here.
  l.r.uploads.archives.get = () => archive();
  const file = path.join(dir, 'web.ova');
  const ran = await l.run('export', 'web', '-o', file, '--json');
  t.match(ran, { code: 0 }, ran.err);
  t.match(JSON.parse(ran.out), { file, files: ['web.ovf', 'web-disk1.vmdk'] });
  t.ok(readFileSync(file).equals(archive()));
  t.match(await l.run('export', 'web', '-o', file), { code: exitCodes.usage, err: /already/ });

  const out = path.join(dir, 'web');
  t.match(await l.run('export', 'web', '-o', out), { code: 0, out: /all checksums right/ });
  t.equal(readFileSync(path.join(out, 'web.ovf'), 'utf8'), descriptor);
  t.ok(readFileSync(path.join(out, 'web-disk1.vmdk')).equals(vmdk));

  l.r.uploads.archives.get = () => archive(manifestOf({ ...files, 'web-disk1.vmdk': 'another' }));
  const bad = path.join(dir, 'bad.ova');
  t.match(await l.run('export', 'web', '-o', bad), { code: exitCodes.usage, err: /checksum/ });
  t.strictSame([existsSync(bad), existsSync(`${bad}.part`)], [false, false], 'nothing is left');
});

void t.test('a VM that runs is packed from a snapshot that goes with the operation', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  t.match(await l.run('vm', 'create', 'web', '--disk', 'size=1GiB', '--start'), { code: 0 });
  l.r.agents.stuck.add('vm.export');
  const ask = async (key: string) =>
    (await l.r.call('POST', '/api/v1/vms/web/export', undefined, { 'Idempotency-Key': key })) as unknown as {
      status: number;
      body: { op: { id: string } };
    };
  const first = await ask('a-key-of-the-first-ask');
  t.equal(first.status, 202);
  t.equal((await ask('a-key-of-the-first-ask')).body.op.id, first.body.op.id);
  t.equal(
    (await ask('a-key-of-the-second-ask')).body.op.id,
    first.body.op.id,
    'who asks twice follows the same',
  );
  const { entries } = await l.r.ledger.list(kinds.vmSnapshot.prefix);
  const snapshots = entries.map((e) => readRecord(kinds.vmSnapshot, e.key, e.value));
  t.match(snapshots, [{ state: 'wanted', consistency: 'auto', forOp: first.body.op.id, keptFor: [] }]);
  const op = await l.r.ledger.get(kinds.op.key(first.body.op.id));
  t.match(snapshotArgs(readRecord(kinds.op, '', op?.value ?? '')), {
    snapshot: snapshots[0]?.id,
    taken: false,
  });
  t.match(await l.run('snapshot', 'delete', 'web', snapshots[0]?.name ?? ''), { err: /in use: vm.export/ });
});

void t.test('what cannot be exported, and what cannot be fetched', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  t.match(await l.run('vm', 'create', 'web', '--disk', 'size=1GiB', '--start'), { code: 0 });
  const call = (method: string, at: string) => l.r.call(method, at);
  t.match(await call('POST', '/api/v1/vms/none/export'), { status: 404 });
  t.match(await l.run('vm', 'stop', 'web'), { code: 0 });
  l.r.agents.stuck.add('vm.export');
  const { body } = (await call('POST', '/api/v1/vms/web/export')) as { body: { op: { id: string } } };
  const again = (await call('POST', '/api/v1/vms/web/export')) as { body: { op: { id: string } } };
  t.equal(again.body.op.id, body.op.id, 'who asks twice follows the same');
  t.match(await call('GET', `/api/v1/exports/${body.op.id}`), { status: 409, body: { code: 'wrong-state' } });
  t.match(await call('GET', '/api/v1/exports/00000000-0000-4000-8000-000000000099'), { status: 404 });
  t.match(await call('GET', '/api/v1/exports/..%2f..%2fetc'), { status: 400 });
});

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { OvfArchive } from '../../../agent/ovf/package.js';
import type { Network } from '../../../core/domain/network.js';
import type { Vapp } from '../../../core/domain/vapp.js';
import type { VmSpec } from '../../../core/domain/vm.js';
import { snapshotArgs } from '../../../core/domain/vm-snapshot.js';
import { descriptorOf } from '../../../core/ovf/export.js';
import { ledger as kinds, readRecord } from '../../../core/wire/ledger-keys.js';
import type { VappDoc } from '../../../core/wire/rest.js';
import { manifestOf, tarOf } from '../agent/ovf/make.js';
import { lab } from './cli-rig.js';

/** A whole vApp as one package, and imported again: what the nodes packed is given by the test. */

const l = await lab();
const { r, dir } = l;
r.agents.deploys = true;
t.teardown(() => l.stop());
await l.run('network', 'create', 'lan', '--bridge', 'br0', '--subnet', '10.0.0.0/24');

const source = `kind: VApp
name: shop
note: Sells
tags: [prod]
properties:
  port: { type: integer, default: 8080 }
  password: { secret: true }
networks:
  back: { isolated: true, subnet: 10.9.0.0/24 }
  front: { network: lan }
members:
  web:
    start: { order: 3, wait: http, path: /health, port: 80 }
    stop: { action: power-off }
    vm: { memory: 128M, disks: [{ pool: local, size: 1M }], nics: [{ network: front }, { network: back }] }
  tiers:
    start: { order: 1, delayS: 5 }
    vapp:
      note: Behind
      members:
        db:
          start: { order: 1, wait: guest, timeoutS: 100 }
          vm:
            memory: 256M
            cpus: 2
            disks: [{ pool: local, size: 1M }, { pool: local, size: 2M, bus: scsi }]
            nics: [{ network: back, model: e1000e }]
            cloudInit: { userData: "#cloud-config\\npassword: '@{password}'\\n" }
failover: all
rules:
  - { kind: apart, members: [db, web], must: false }
eulas: [Be kind.]
cpuAllocation: { reservation: 100, limit: null, weight: 2000 }
`;
const file = path.join(dir, 'shop.yaml');
await writeFile(file, source);
const secrets = path.join(dir, 'secrets.yaml');
await writeFile(secrets, 'password: hush-hush\n');
const applied = await l.run('apply', '-f', file, '--accept-eulas', '--values', secrets);
t.match(applied, { code: 0 }, applied.err);

const record = (name: string): Vapp => {
  const all = r.memory.peekAll(kinds.vapp.prefix).map((e) => JSON.parse(e.value) as Vapp);
  const v = all.find((x) => x.name === name);
  if (v === undefined) throw new Error(`no vApp ${name}`);
  return v;
};

/** The agents of the test make no VMs: these stand for them, off. */
async function makeMembers(name: string): Promise<void> {
  const v = record(name);
  const members = [];
  for (const m of v.members) {
    const { networks: _, ...make } = (m.make ?? {}) as { networks?: unknown; name?: string };
    const made = await r.call('POST', '/api/v1/vms', make);
    if (made.status !== 202) throw new Error(JSON.stringify(made.body));
    const { vm } = made.body as { vm: { id: string } };
    members.push({ ...m, vm: vm.id, make: null });
  }
  r.memory.poke(kinds.vapp.key(v.id), JSON.stringify({ ...v, members }));
}

/** What a node packs of a VM. */
const packed = new Map<string, Buffer>();
function pack(vm: string): Buffer {
  const there = packed.get(vm);
  if (there !== undefined) return there;
  const spec = JSON.parse(r.memory.peek(kinds.vmSpec.key(vm))?.value ?? '') as VmSpec;
  const sizes = spec.disks.map((d) => {
    const disk = JSON.parse(r.memory.peek(kinds.disk.key(d.disk))?.value ?? '') as { sizeBytes: number };
    return disk.sizeBytes;
  });
  const data = spec.disks.map((_, i) => Buffer.alloc(3000 + i, `${spec.name}${i}`));
  const descriptor = descriptorOf({
    spec,
    disks: spec.disks.map((d, i) => ({
      bus: d.bus,
      name: `disk${i + 1}`,
      capacityBytes: sizes[i] ?? 0,
      href: `${spec.name}-disk${i + 1}.vmdk`,
      storedBytes: 3000 + i,
    })),
    nics: spec.nics.map((n) => ({
      network: (JSON.parse(r.memory.peek(kinds.network.key(n.network))?.value ?? '') as Network).name,
      model: n.model,
    })),
  });
  const files = Object.fromEntries([
    [`${spec.name}.ovf`, descriptor],
    ...data.map((d, i): [string, Buffer] => [`${spec.name}-disk${i + 1}.vmdk`, d]),
  ]) as Record<string, string | Buffer>;
  const [first, ...others] = Object.entries(files).map(([name, bytes]) => ({ name, data: bytes }));
  const bytes = tarOf([
    ...(first === undefined ? [] : [first]),
    { name: `${spec.name}.mf`, data: manifestOf(files) },
    ...others,
  ]);
  packed.set(vm, bytes);
  return bytes;
}
r.uploads.archives.get = (op: string) => {
  const { subject } = JSON.parse(r.memory.peek(kinds.op.key(op))?.value ?? '') as { subject: { id: string } };
  return pack(subject.id);
};

const documentOf = async (name: string): Promise<VappDoc> =>
  (await r.call('GET', `/api/v1/vapps/${name}/document?template=true`)).body;

await t.test('a vApp becomes one archive, and what is imported of it is its equal', async (t) => {
  await makeMembers('shop');
  const ova = path.join(dir, 'shop.ova');
  const ran = await l.run('export', 'shop', '--vapp', '-o', ova);
  t.match(ran, { code: 0, out: /all checksums right/ }, ran.err);
  const report = await (
    await OvfArchive.open(ova)
  ).report({ verify: true, nowMs: Date.now(), signal: new AbortController().signal });
  t.match(report, {
    name: 'shop',
    systems: [
      { id: 'web', name: 'shop-web', collection: 'shop' },
      { id: 'db', cpus: 2, memoryMiB: 256, collection: 'tiers', disks: { length: 2 } },
    ],
    collections: [{ id: 'shop', annotation: 'Sells', cpuAllocation: { reservation: 100 } }, { id: 'tiers' }],
    networks: [{ name: 'shop-back' }, { name: 'lan' }],
    eulas: [{ text: 'Be kind.' }],
    manifest: { verified: { length: 4 }, unverified: [] },
  });
  t.notMatch(JSON.stringify(report), 'hush-hush');
  t.match(report.startOrder, [
    { id: 'tiers', order: 1, startDelayS: 5 },
    { id: 'web', order: 3, stopAction: 'powerOff' },
    { id: 'db', order: 1, waitForGuest: true, startDelayS: 100 },
  ]);

  const { ops } = (await r.call('POST', '/api/v1/vapps/shop/export')).body as unknown as {
    ops: { id: string }[];
  };
  const at = `/api/v1/vapps/shop/package?exports=${ops.map((o) => o.id).join(',')}`;
  t.match(await r.call('GET', `/api/v1/vapps/shop/package?exports=${ops[0]?.id ?? ''}`), { status: 400 });
  t.match(await r.call('GET', '/api/v1/vapps/shop/package'), { status: 400 });
  t.match(await r.call('GET', at.replace('shop/', 'none/')), { status: 404 });

  const before = await documentOf('shop');
  const made = await l.run(
    'import',
    ova,
    '--as-vapp',
    'shop2',
    '--accept-eulas',
    '--keep-images',
    '--properties',
    secrets,
  );
  t.match(made, { code: 0 }, made.err);
  await makeMembers('shop2');
  const after = await documentOf('shop2');
  const same = (d: VappDoc): unknown => {
    const text = JSON.stringify({ ...d, name: '', tags: d.tags?.filter((x) => !x.startsWith('ovf-')) });
    // Disks were blank and are of an image now; all else is the same.
    return JSON.parse(
      text
        .replaceAll(/"tags":\["ovf-[0-9a-f]{12}"\],?/g, '')
        .replaceAll(/,"(?:image|mode|format)":"[^"]*"/g, '')
        .replaceAll(/"sizeBytes":\d+/g, '"sizeBytes":1'),
    );
  };
  t.match(same(after), same(before));
  t.match(same(before), same(after), 'and nothing besides');
});

await t.test('a member that runs is packed from a snapshot, the others from their disks', async (t) => {
  await l.run('vm', 'start', 'shop-web');
  const { status, body } = await r.call('POST', '/api/v1/vapps/shop/export');
  t.equal(status, 202);
  const { ops } = body as { ops: { id: string; subject: { name: string } }[] };
  for (const { id, subject } of ops) {
    const kept = await r.ledger.get(kinds.op.key(id));
    const args = snapshotArgs(readRecord(kinds.op, kinds.op.key(id), kept?.value ?? ''));
    t.equal(args !== null, subject.name === 'shop-web', subject.name);
  }
});

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { exitCodes } from '../../../controller/cli/exit.js';
import { folder, manifestOf, tarOf } from '../agent/ovf/make.js';
import { fixture, item, packageOf } from '../core/ovf/read.js';
import { lab } from './cli-rig.js';

const base = Buffer.alloc(300_000, 'base');
const data = Buffer.alloc(200_000, 'data');
const large = [Buffer.alloc(1000, 'a'), Buffer.alloc(1000, 'b'), Buffer.alloc(500, 'c')];
const files: Record<string, string | Buffer> = {
  'shop.ovf': fixture('three-tier.ovf'),
  'base.vmdk': base,
  'data disk.img.gz': gzipSync(data),
  'large.vmdk.000000000': large[0] ?? '',
  'large.vmdk.000000001': large[1] ?? '',
  'large.vmdk.000000002': large[2] ?? '',
  'texts-de.xml': fixture('texts-de.xml'),
  'tools.iso': 'an iso',
};

/** A cluster with the networks, and the package as an archive. */
async function prepared(
  t: { teardown(f: () => unknown): void },
  o: { files?: typeof files; manifest?: string } = {},
) {
  const l = await lab();
  t.teardown(() => l.stop());
  const all = o.files ?? files;
  const dir = await folder(t, {});
  const file = path.join(dir, 'shop.ova');
  const [[first, descriptor] = ['', ''], ...others] = Object.entries(all);
  await writeFile(
    file,
    tarOf([
      { name: first, data: descriptor },
      { name: 'shop.mf', data: o.manifest ?? manifestOf(all) },
      ...others.map(([name, bytes]) => ({ name, data: bytes })),
    ]),
  );
  for (const [i, name] of ['front', 'inner'].entries())
    await l.run(
      'network',
      'create',
      name,
      '--bridge',
      `br${i}`,
      '--subnet',
      `10.${i}.0.0/24`,
      '--range',
      `10.${i}.0.10-10.${i}.0.90`,
    );
  return { l, file, dir };
}
const usual = ['--network', 'back=inner', '--accept-eulas'];

void t.test('an OVA becomes VMs; images are gone after, secrets are nowhere', async (t) => {
  const { l, file, dir } = await prepared(t);
  const preview = await l.run('ovf', 'import', file, ...usual, '--preview');
  t.match(preview, {
    code: 0,
    out: /VM Database: 2 CPUs, 2048 MiB, bios\n {2}disk disk1: 8 GiB on scsi, of Shop-base/,
  });
  t.match(preview.out, /1\. Database, until the guest answers\n2\. application/);
  t.match(await l.run('vm', 'list'), { out: /There are no VMs/ }, 'nothing was made');
  t.equal(l.r.uploads.files.size, 0);

  const values = path.join(dir, 'values.yaml');
  await writeFile(values, 'org.example.shop.admin: hush-hush\norg.example.db.port.main: 5433\n');
  l.r.uploads.breakAfter = 100_000;
  const made = await l.run(
    'ovf',
    'import',
    file,
    ...usual,
    '--properties',
    values,
    '--property',
    'org.example.shop.title=a=b',
    '--json',
  );
  t.match(made, { code: 0 });
  t.notMatch(made.out + made.err, 'hush-hush');
  t.strictSame(
    [...l.r.uploads.files.values()].map((f) => f.toString('latin1')).sort(),
    [base, data, Buffer.concat(large), Buffer.from('an iso')].map((f) => f.toString('latin1')).sort(),
    'unpacked, joined, and whole although the wire was cut once',
  );
  const rows = JSON.parse((await l.run('vm', 'list', '--json')).out) as { name: string; id: string }[];
  t.strictSame(rows.map((r) => r.name).sort(), ['Database', 'application', 'web']);
  const show = async (
    name: string,
  ): Promise<{ spec: Record<string, never>; disks: { sizeBytes: number }[] }> =>
    JSON.parse((await l.run('vm', 'show', name, '--json')).out) as never;
  const database = await show('Database');
  t.match(database.spec, {
    cpus: 2,
    memoryMiB: 2048,
    tags: [/^ovf-[0-9a-f]{12}$/],
    disks: { length: 2 },
    power: 'stopped',
  });
  const environment =
    (database.spec['cloudInit'] as { ovfEnvironment: string } | undefined)?.ovfEnvironment ?? '';
  t.match(environment, /admin" oe:value="hush-hush"/);
  t.match(environment, /port\.main" oe:value="5433"/);
  t.match(environment, /title" oe:value="a=b"/);
  t.strictSame(
    database.disks.map((d) => d.sizeBytes),
    [8 * 2 ** 30, 20 * 2 ** 30],
  );
  t.match(await show('application'), { afterNames: ['Database'] });
  const images = JSON.parse((await l.run('image', 'list', '--json')).out) as { name: string }[];
  t.strictSame(
    images.map((i) => i.name),
    ['Shop-tools'],
    'only what is in a CD drive stays',
  );

  const again = await l.run('ovf', 'import', file, ...usual, '--keep-images');
  t.match(again, { code: 0, err: /Its VMs are there already/ });
  t.equal((JSON.parse((await l.run('vm', 'list', '--json')).out) as unknown[]).length, 3, 'twice makes one');
});

void t.test('start order is kept at a start', async (t) => {
  const source = fixture('three-tier.ovf').replace(
    'ovf:startDelay="120" ovf:waitingForGuest="true"',
    'ovf:startDelay="1"',
  );
  const all = { ...files, 'shop.ovf': source.replace('ovf:startDelay="30"', '') };
  const { l, file } = await prepared(t, { files: all });
  t.match(await l.run('ovf', 'import', file, ...usual, '--start'), { code: 0 });
  const ops = JSON.parse((await l.run('op', 'list', '--json')).out) as {
    kind: string;
    createdMs: number;
    subject: { name: string };
  }[];
  const starts = ops.filter((o) => o.kind === 'vm.start').sort((a, b) => a.createdMs - b.createdMs);
  t.strictSame(
    starts.map((o) => o.subject.name),
    ['Database', 'application'],
    'web is started by hand',
  );
  t.ok((starts[1]?.createdMs ?? 0) - (starts[0]?.createdMs ?? 0) >= 1000, 'after its delay');
});

void t.test('refusals leave nothing behind', async (t) => {
  const { l, file, dir } = await prepared(t);
  const none = async (what: string): Promise<void> => {
    t.match(await l.run('vm', 'list'), { out: /There are no VMs/ }, what);
    t.match(await l.run('image', 'list'), { out: /There are no images/ }, what);
  };
  t.match(await l.run('ovf', 'import', file, '--accept-eulas'), {
    code: exitCodes.refused,
    err: /say which network "back" is: --network "back=NETWORK", or =none/,
  });
  t.match(await l.run('ovf', 'import', file, '--network', 'back=inner'), {
    code: 2,
    err: /1 licences to accept/,
  });
  t.match(await l.run('ovf', 'import', file, ...usual, '--network', 'odd=inner'), {
    code: 2,
    err: /no network "odd"/,
  });
  t.match(await l.run('ovf', 'import', file, ...usual, '--property', 'org.example.shop.admin=x'), {
    code: 2,
    err: /is a secret, and others can read command lines/,
  });
  t.match(await l.run('ovf', 'import', file, ...usual, '--property', 'nothing=x'), {
    code: 2,
    err: /no property "nothing"/,
  });
  const values = path.join(dir, 'values.yaml');
  await writeFile(values, 'a: [1, 2');
  t.match(await l.run('ovf', 'import', file, ...usual, '--properties', values), {
    code: 2,
    err: /no YAML mapping/,
  });
  await none('refused before');

  await l.run('vm', 'create', 'web', '--size', '1G');
  t.match(await l.run('ovf', 'import', file, ...usual), {
    code: exitCodes.refused,
    err: /there is a VM "web" already/,
  });
  t.match(await l.run('image', 'list'), { out: /There are no images/ });
  t.match(await l.run('ovf', 'import', file, ...usual, '--prefix', 'x-', '--pool', 'nowhere'), {
    code: exitCodes.notFound,
  });
  t.match(await l.run('image', 'list'), { out: /There are no images/ });
  t.match(JSON.parse((await l.run('vm', 'list', '--json')).out), { length: 1 });
});

void t.test('packed data that is damaged or a bomb is found before it is sent', async (t) => {
  const packed = gzipSync(data);
  for (const [what, bytes, expected] of [
    ['cut off', packed.subarray(0, 100), /cannot be unpacked/],
    ['a bomb', gzipSync(Buffer.alloc(70 * 2 ** 20)), /far larger unpacked than its disk/],
  ] as const) {
    const source = fixture('three-tier.ovf')
      .replace('${records.size}', '1')
      .replace('byte*1024*1024*1024', 'byte');
    const all = { ...files, 'shop.ovf': source, 'data disk.img.gz': bytes };
    const { l, file } = await prepared(t, { files: all });
    const r = await l.run('ovf', 'import', file, ...usual);
    t.match(r, { code: exitCodes.refused, err: expected }, what);
    t.match(
      await l.run('image', 'list'),
      { out: /There are no images/ },
      'what was made before is taken back',
    );
    t.match(await l.run('vm', 'list'), { out: /There are no VMs/ });
  }
});

void t.test(
  'disks are checked as they are sent: what is another than the manifest says leaves nothing',
  async (t) => {
    for (const algorithm of ['sha1', 'sha512']) {
      const { l, file } = await prepared(t, {
        manifest: manifestOf({ ...files, 'base.vmdk': 'another' }, algorithm),
      });
      const ran = await l.run('import', file, ...usual);
      t.match(ran, { code: exitCodes.usage, err: /shop\.mf line \d+.*"base\.vmdk" has another/s }, algorithm);
      t.match(await l.run('image', 'list'), { out: /There are no images/ });
      t.match(await l.run('vm', 'list'), { out: /There are no VMs/ });
    }
    const { l, file } = await prepared(t, { manifest: manifestOf(files, 'sha1') });
    t.match(await l.run('import', file, ...usual, '--preview'), { code: 0, out: /VM Database/ });
    t.match(await l.run('import', file, ...usual), { code: 0 }, 'and what is right is taken');
  },
);

void t.test('a package as one vApp: its document names the images that were sent', async (t) => {
  const { l, file } = await prepared(t);
  l.r.agents.deploys = true;
  const ran = await l.run('import', file, ...usual, '--as-vapp', 'shop');
  t.match(ran, { code: 0 }, ran.err);
  const shown = await l.run('vapp', 'show', 'shop', '--json');
  const { members } = JSON.parse(shown.out) as { members: { vmName: string }[] };
  t.strictSame(members.map((m) => m.vmName).sort(), ['Database', 'application', 'web']);
  const again = await l.run('import', file, ...usual, '--as-vapp', 'shop');
  t.match(again, { code: 0, err: /is there already/ }, again.err);
});

void t.test('a disk with an address is fetched by a node, if that is allowed', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const url = 'https://example.org/disk.vmdk';
  const descriptor = packageOf({
    files: `<File ovf:id="f" ovf:href="${url}"/>`,
    disks: '<Disk ovf:diskId="d" ovf:capacity="2147483648" ovf:fileRef="f"/>',
    items: [
      item({ InstanceID: 1, ResourceType: 3, VirtualQuantity: 1 }),
      item({ InstanceID: 2, ResourceType: 4, VirtualQuantity: 128, AllocationUnits: 'MegaBytes' }),
      item({ InstanceID: 3, ResourceType: 17, HostResource: 'ovf:/disk/d' }),
    ].join(''),
  });
  const sha256 = 'a'.repeat(64);
  const dir = await folder(t, {
    'x.ovf': descriptor,
    'x.mf': `${manifestOf({ 'x.ovf': descriptor })}SHA256(${url})= ${sha256}\n`,
  });
  const file = path.join(dir, 'x.ovf');
  const refused = await l.run('import', file);
  t.equal(refused.code, exitCodes.refused);
  t.match(refused.err, /"https:\/\/example\.org\/disk\.vmdk" is to be fetched from elsewhere: allow it/);
  t.match(await l.run('image', 'list'), { out: /There are no images/ });
  const ran = await l.run('import', file, '--allow-fetch', '--keep-images');
  t.equal(ran.code, 0, ran.err);
  t.match(JSON.parse((await l.run('--json', 'image', 'show', 'vm-disk')).out), {
    source: url,
    sha256,
    state: 'ready',
  });
  t.match(await l.run('vm', 'list'), { out: /vm/ });
  t.equal(
    (await l.run('import', file, '--allow-fetch', '--keep-images')).code,
    0,
    'given again it makes no second',
  );
});

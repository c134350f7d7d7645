import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import type { ImportPreview } from '../../../core/wire/rest.js';
import { manifestOf } from '../agent/ovf/make.js';
import { fixture } from '../core/ovf/read.js';
import { lab } from './cli-rig.js';

/** A package over the API alone: looked into, its disks uploaded as images, and made. */

const l = await lab();
const { r, dir } = l;
t.teardown(() => l.stop());
await l.run('network', 'create', 'inner', '--bridge', 'br0', '--subnet', '10.0.0.0/24');

const source = fixture('constructs/hardware-nvme.ovf').replace(
  '<VirtualSystem ovf:id="vm">',
  '<NetworkSection><Info/><Network ovf:name="lan"/></NetworkSection><VirtualSystem ovf:id="vm">',
);
const withNic = source.replace(
  '    </VirtualHardwareSection>',
  '<Item><rasd:Connection>lan</rasd:Connection><rasd:ElementName>NIC</rasd:ElementName><rasd:InstanceID>9</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType></Item></VirtualHardwareSection>' +
    '<ProductSection><Info/><Property ovf:key="title" ovf:type="string" ovf:userConfigurable="true"/></ProductSection><EulaSection><Info/><License>Use it.</License></EulaSection>',
);
const disk = Buffer.alloc(65536, 'd');
const sent = (o: { ovf?: string; manifest?: string } = {}) => {
  const ovf = o.ovf ?? withNic;
  const manifest = o.manifest ?? manifestOf({ 'x.ovf': ovf, 'disk.vmdk': disk });
  const text = (name: string, content: string) => ({
    name,
    sizeBytes: Buffer.byteLength(content),
    content: Buffer.from(content).toString('base64'),
  });
  return {
    file: 'x.ova',
    files: [text('x.ovf', ovf), text('x.mf', manifest), { name: 'disk.vmdk', sizeBytes: disk.length }],
  };
};
const preview = async (body: object) => {
  const answer = await r.call('POST', '/api/v1/imports/preview', body);
  return { ...answer, body: answer.body as ImportPreview & { code?: string; message?: string } };
};
const about = (p: ImportPreview) => p.problems.map((x) => x.about);

await t.test('a preview says what would be made, what is missing, and does nothing', async (t) => {
  const first = await preview(sent());
  t.equal(first.status, 200);
  t.strictSame(about(first.body), ['network', 'licence']);
  t.match(first.body, {
    package: {
      name: 'vm',
      networks: [{ name: 'lan' }],
      properties: [{ id: 'title', userConfigurable: true }],
      eulas: [{ text: 'Use it.' }],
      manifest: { verified: ['x.ovf'], unverified: ['disk.vmdk'] },
    },
    images: [
      { name: 'vm-disk', files: ['disk.vmdk'], storedBytes: 65536, gzip: false, sha256: /^[0-9a-f]{64}$/ },
    ],
    vms: [{ name: 'vm', cpus: 2, memoryMiB: 1024, disks: [{ bus: 'virtio', image: 'vm-disk' }] }],
  });
  const mapped = await preview({ ...sent(), networks: { lan: 'inner' }, acceptEulas: true });
  t.strictSame(about(mapped.body), []);
  t.match(mapped.body.vms[0]?.nics, [{ network: 'inner', model: 'e1000e' }]);
  const left = await preview({ ...sent(), networks: { lan: null }, acceptEulas: true });
  t.match(left.body.vms[0]?.changes, [/becomes virtio/, /NIC is left out/]);
  t.match((await r.call('GET', '/api/v1/vms')).body['items'], []);
});

await t.test('what is wrong is told in the words of the reader, with file and line', async (t) => {
  t.match(await preview(sent({ ovf: '<a>\n<b></a>' })), {
    status: 400,
    body: { code: 'bad-input', message: /^x\.ovf line 2: / },
  });
  t.match(await preview(sent({ manifest: manifestOf({ 'x.ovf': 'another' }) })), {
    status: 400,
    body: { message: /^x\.mf line 1: "x\.ovf" has another SHA256 checksum/ },
  });
  t.match(await preview({ ...sent(), files: sent().files.slice(0, 2) }), {
    status: 400,
    body: { message: /"disk\.vmdk" is not in the package/ },
  });
  t.match(await preview({ ...sent(), networks: { odd: 'inner' } }), {
    status: 400,
    body: { message: /no network "odd"/ },
  });
  t.match(await preview({ ...sent(), networks: { lan: 'odd' } }), { status: 404 });
  t.match(await preview({ ...sent(), pool: 'odd' }), { status: 404 });
  t.match(await preview({ ...sent(), properties: { nothing: 'x' } }), {
    status: 400,
    body: { message: /no property "nothing"/ },
  });
  t.match(await preview({ ...sent(), files: [{ name: 'x.ovf', sizeBytes: 5 }] }), {
    status: 400,
    body: { message: /its content was not sent/ },
  });
  t.match(await preview({ ...sent(), files: [{ name: 'x.ovf', sizeBytes: 5, content: '%' }] }), {
    status: 400,
  });
  const big = sent({
    ovf: withNic.replace('</Envelope>', `<!--${'x'.repeat(5 * 2 ** 20)}--></Envelope>`),
    manifest: '',
  });
  t.match(await preview(big), { status: 200 }, 'a descriptor may be larger than other bodies');
});

await t.test('it is made when its disks are there, once', async (t) => {
  const body = { ...sent(), networks: { lan: 'inner' }, properties: { title: 'a shop' }, acceptEulas: true };
  const make = (o: object = {}) => r.call('POST', '/api/v1/imports', { ...body, ...o });
  t.match(await make(), { status: 409, body: { message: /image "vm-disk" is not here yet/ } });
  const file = path.join(dir, 'disk.img');
  await writeFile(file, Buffer.alloc(65536, 'another'));
  await l.run('image', 'import', file, 'vm-disk');
  t.match(await make(), { body: { code: 'checksum-mismatch' } });
  await l.run('image', 'delete', 'vm-disk');
  await writeFile(file, disk);
  t.match(await l.run('image', 'import', file, 'vm-disk'), { code: 0 });
  t.match(await make({ acceptEulas: false }), { status: 400, body: { message: /1 licences to accept/ } });
  const made = await make({ start: true });
  t.match(made, {
    status: 202,
    body: { vapp: null, there: false, vms: [{ name: 'vm' }], ops: [{ kind: 'vm.create' }] },
  });
  const vm = (await r.call('GET', '/api/v1/vms/vm')).body;
  t.match(vm, { spec: { power: 'running', cloudInit: { ovfEnvironment: /title" oe:value="a shop"/ } } });
  t.match(await make(), { status: 202, body: { there: true, ops: [] } }, 'asked again it makes no second');
  t.match(
    await preview({
      ...sent({ ovf: withNic.replace('</Envelope>', ' </Envelope>') }),
      networks: { lan: 'inner' },
    }),
    {
      body: { problems: [{ about: 'name', text: /there is a VM "vm" already/ }, { about: 'licence' }] },
    },
  );
});

import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { build } from 'esbuild';
import t from 'tap';
import type { Disk } from '../../core/domain/disk.js';
import type { ErrorRecord } from '../../core/domain/error.js';
import { vmHaDefault } from '../../core/domain/ha.js';
import type { Image } from '../../core/domain/image.js';
import type { Network } from '../../core/domain/network.js';
import type { Pool } from '../../core/domain/pool.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { Lab, waitFor } from './harness.js';

const lab = new Lab({ id: 'voltest', net: '10.76.0', guestNet: '10.76.100' });
const MiB = 1024 * 1024;
const guestImage = path.resolve('build/images/debian-13-guest.qcow2');
const guestAddress = `${lab.guestNet}.50`;

const pool = (o: Partial<Pool>): Pool => ({
  id: randomUUID(),
  name: 'p',
  kind: 'local',
  path: '/var/lib/flotilla-test/local',
  nodes: null,
  reservePct: 5,
  ...o,
});
const local = pool({});
const shared = pool({ kind: 'shared', path: '/srv/shared/pool' });
const imageIn = (p: Pool, node: string): Image => ({
  id: randomUUID(),
  name: 'debian',
  pool: p.id,
  node: p.kind === 'local' ? node : null,
  state: 'importing',
  format: 'qcow2',
  expectedBytes: null,
  sizeBytes: 0,
  virtualSizeBytes: 0,
  sha256: null,
  source: null,
  createdMs: 0,
  error: null,
});
const network: Network = {
  id: randomUUID(),
  name: 'guests',
  bridge: 'br-guest',
  uplink: 'eth1',
  subnet: `${lab.guestNet}.0/24`,
  gateway: null,
  dns: [],
  range: null,
};

/** Does a job in a node, with the node's own tools. */
async function does(node: string, job: object): Promise<{ value?: unknown; error?: ErrorRecord }> {
  const said = await lab.must(
    'exec',
    node,
    'node',
    '/srv/shared/program.mjs',
    node,
    '/var/lib/flotilla-test',
    JSON.stringify(job),
  );
  return JSON.parse(said) as { value?: unknown; error?: ErrorRecord };
}
async function value(node: string, job: object): Promise<unknown> {
  const r = await does(node, job);
  if (r.error) throw new Error(`${node}: ${JSON.stringify(r.error)}`);
  return r.value;
}

t.teardown(() => lab.down());
let image: Image;
let linked: Disk;

await t.test('two nodes with a directory in common', async () => {
  await lab.down();
  await lab.up(2);
  await build({
    entryPoints: ['test/lab/volumes-program.ts'],
    outfile: path.join(lab.share, 'program.mjs'),
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
    logLevel: 'warning',
  });
  fs.copyFileSync(guestImage, path.join(lab.share, 'guest.qcow2'));
});

await t.test('both find the shared pool and agree whose it is; a local one is each node’s own', async (t) => {
  for (const use of await Promise.all(['n1', 'n2'].map((n) => value(n, { do: 'probe', pool: shared }))))
    t.match(use, { ok: true, text: '' });
  for (const node of ['n1', 'n2'])
    t.match(await value(node, { do: 'probe', pool: local }), { ok: true, text: '' });
  const unmounted = pool({ kind: 'shared', path: '/srv/unmounted' });
  t.match(await value('n1', { do: 'probe', pool: unmounted }), { ok: false, text: /not mounted/ });
});

await t.test('an image is imported on one node and cloned on the other', async (t) => {
  const raw = imageIn(shared, 'n1');
  const facts = await value('n1', {
    do: 'import',
    pool: shared,
    image: raw,
    file: '/srv/shared/guest.qcow2',
  });
  t.match(facts, { format: 'qcow2', sha256: /^[0-9a-f]{64}$/ });
  image = { ...raw, ...(facts as object), state: 'ready' };
  const disk = (o: Partial<Disk>): Disk => ({
    id: randomUUID(),
    name: 'root',
    vm: randomUUID(),
    pool: shared.id,
    node: null,
    format: 'qcow2',
    sizeBytes: 4096 * MiB,
    source: { kind: 'image', image: image.id, mode: 'full' },
    madeBytes: 0,
    state: 'wanted',
    error: null,
    ...o,
  });
  for (const format of ['qcow2', 'raw'] as const) {
    const full = disk({ format });
    const at = String(await value('n2', { do: 'make', pool: shared, disk: full, image }));
    const info = JSON.parse(await lab.sh('n2', `qemu-img info --output=json ${at}`)) as Record<
      string,
      unknown
    >;
    t.match(info, { format, 'virtual-size': 4096 * MiB });
    t.equal(await lab.sh('n2', `stat -c %a ${at}`), '600');
    await value('n1', { do: 'remove', pool: shared, disk: full });
    t.equal((await lab.exec('n2', 'test', '-e', at)).code, 1, 'removed for both');
  }
  linked = disk({ source: { kind: 'image', image: image.id, mode: 'linked' } });
  await value('n2', { do: 'make', pool: shared, disk: linked, image });
});

await t.test('hostile files are refused by the tools of a node too', async (t) => {
  const make = async (name: string, script: string) => {
    await lab.sh('n1', `cd /srv/shared; ${script}`);
    return does('n1', {
      do: 'import',
      pool: local,
      image: imageIn(local, 'n1'),
      file: `/srv/shared/${name}`,
    });
  };
  const cases: [string, string, string][] = [
    ['backed', 'qemu-img create -q -f qcow2 -b /etc/passwd -F raw backed 5M', 'image-refused'],
    ['external', 'qemu-img create -q -f qcow2 -o data_file=/srv/shared/data external 5M', 'image-refused'],
    ['flat.vmdk', 'qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 5M', 'image-refused'],
    ['huge', 'qemu-img create -q -f qcow2 huge 10T', 'no-space'],
    ['cut', 'head -c 60000000 guest.qcow2 >cut', 'image-refused'],
  ];
  for (const [name, script, code] of cases) t.equal((await make(name, script)).error?.code, code, name);
  t.equal(await lab.sh('n1', `ls ${local.path}/images ${local.path}/disks | grep -c qcow2 || true`), '0');
});

await t.test('a guest boots from a linked disk and its seed, and is reached on its bridge', async (t) => {
  for (const node of ['n1', 'n2']) {
    await value(node, { do: 'bridge', network });
    await value(node, { do: 'bridge', network });
  }
  // The other node looks in through its own bridge, as another guest would.
  await lab.sh('n2', `ip address add ${lab.guestNet}.2/24 dev ${network.bridge}`);
  const mac = '02:f1:00:00:00:50';
  const spec: VmSpec = {
    id: randomUUID(),
    name: 'Seeded guest',
    generation: 1,
    note: '',
    tags: [],
    cpus: 1,
    memoryMiB: 256,
    firmware: 'bios',
    boot: ['disk'],
    disks: [],
    cdroms: [],
    nics: [{ id: randomUUID(), network: network.id, mac, address: guestAddress, model: 'virtio' }],
    cloudInit: {
      hostname: null,
      user: 'ann',
      sshKeys: ['ssh-ed25519 AAAA ann'],
      userData: null,
      networkConfig: null,
      ovfEnvironment: null,
    },
    power: 'running',
    powerGeneration: 1,
    stopTimeoutS: 60,
    onCrash: 'stop',
    ha: vmHaDefault,
  };
  const seed = String(await value('n1', { do: 'seed', spec, network }));
  const disk = `${shared.path}/disks/${linked.id}.qcow2`;
  const xml = `<domain type='qemu'><name>${spec.id}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/><apic/></features><cpu mode='custom'><model>qemu64</model></cpu><devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='${seed}'/><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='bridge'><mac address='${mac}'/><source bridge='${network.bridge}'/><model type='virtio'/></interface>
    <serial type='file'><source path='/srv/shared/serial.log'/></serial></devices></domain>`;
  fs.writeFileSync(path.join(lab.share, 'guest.xml'), xml);
  await lab.sh('n1', 'virsh -q create /srv/shared/guest.xml');
  const serial = () => fs.readFileSync(path.join(lab.share, 'serial.log'), 'latin1');
  await waitFor(
    'the guest answers at the address of its seed',
    async () => (await lab.exec('n2', 'ping', '-c1', '-W1', guestAddress)).code === 0,
    { limitMs: 240_000 },
  ).catch((e: unknown) => {
    throw new Error(`the serial line ends with:\n${serial().slice(-3000)}`, { cause: e });
  });
  await waitFor('its name on the login prompt', () => /seeded-guest login:/.test(serial()), {
    limitMs: 120_000,
  });

  // QEMU has the disk open now: what would pull it from under the guest is refused.
  const grown = { ...linked, sizeBytes: linked.sizeBytes + 1024 * MiB };
  t.equal((await does('n1', { do: 'grow', pool: shared, disk: grown })).error?.code, 'in-use');
  t.equal((await does('n1', { do: 'unbridge', network })).error?.code, 'in-use', 'its bridge too');
  await lab.sh('n1', `virsh -q destroy ${spec.id}`);
  await value('n1', { do: 'grow', pool: shared, disk: grown });
  await value('n1', { do: 'unbridge', network });
  t.equal((await lab.exec('n1', 'ip', 'link', 'show', network.bridge)).code, 1);
  t.match(await lab.sh('n1', 'ip -d link show eth1'), /^(?!.*br-guest)/s, 'the card is given back');
});

await t.test('a node that loses power in the middle of a copy leaves nothing half-made', async (t) => {
  const made = value('n2', {
    do: 'import',
    pool: local,
    image: imageIn(local, 'n2'),
    file: '/srv/shared/guest.qcow2',
  });
  made.catch(() => undefined);
  await waitFor(
    'a copy in work',
    async () => (await lab.sh('n2', `ls -A ${local.path}/images`)).includes('.tmp.'),
    { everyMs: 20 },
  );
  await lab.kill('n2');
  await lab.boot('n2');
  const names = async () =>
    (await lab.sh('n2', `ls -A ${local.path}/images ${local.path}/disks ${local.path}/incoming`)).split('\n');
  t.notOk(
    (await names()).some((n) => /^[0-9a-f-]{36}\.(qcow2|raw|iso)$/.test(n)),
    'no finished file',
  );
  await value('n2', { do: 'sweep', pool: local });
  t.notOk((await names()).some((n) => n.includes('.tmp.')));
  const again = await value('n2', {
    do: 'import',
    pool: local,
    image: { ...image, id: randomUUID(), pool: local.id, node: 'n2' },
    file: '/srv/shared/guest.qcow2',
  });
  t.match(again, { format: 'qcow2' });
});

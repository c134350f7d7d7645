import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { parse as parseYaml } from 'yaml';
import { hostnameOf, seedFiles, type SeedFiles } from '../../../../agent/guest/cloud-init.js';
import { Seeds } from '../../../../agent/guest/seed.js';
import { runTool } from '../../../../agent/pool/tool.js';
import { vmHaDefault } from '../../../../core/domain/ha.js';
import type { Network } from '../../../../core/domain/network.js';
import { cloudInitSchema, type CloudInit, type VmSpec } from '../../../../core/domain/vm.js';

const id = '11111111-2222-4333-8444-555555555555';
const net: Network = {
  id: '99999999-2222-4333-8444-555555555555',
  name: 'lan',
  bridge: 'br-lan',
  uplink: null,
  subnet: '10.1.2.0/23',
  gateway: '10.1.2.1',
  dns: ['10.1.2.2', '9.9.9.9'],
  range: ['10.1.2.10', '10.1.3.200'],
};
const networks = new Map([[net.id, net]]);
const nic = (mac: string, address: string | null): VmSpec['nics'][number] => ({
  id,
  network: net.id,
  mac,
  address,
  model: 'virtio',
});
const ci = (o: Partial<CloudInit> = {}): CloudInit => ({
  hostname: null,
  user: null,
  sshKeys: [],
  userData: null,
  networkConfig: null,
  ovfEnvironment: null,
  ...o,
});
const spec = (o: Partial<VmSpec> = {}): VmSpec => ({
  id,
  name: 'web 1',
  generation: 1,
  note: '',
  tags: [],
  cpus: 1,
  memoryMiB: 256,
  firmware: 'bios',
  boot: ['disk'],
  disks: [],
  cdroms: [],
  nics: [nic('02:f1:00:00:00:01', '10.1.2.17')],
  cloudInit: ci(),
  power: 'running',
  powerGeneration: 1,
  stopTimeoutS: 60,
  onCrash: 'restart',
  ha: vmHaDefault,
  ...o,
});
const yamlOf = (files: SeedFiles, name: keyof SeedFiles) =>
  parseYaml(files[name] ?? '') as Record<string, unknown>;

await t.test('a static address comes with prefix, route and name servers; others by DHCP', async (t) => {
  const files = seedFiles(
    spec({
      nics: [
        nic('02:f1:00:00:00:01', '10.1.2.17'),
        nic('02:f1:00:00:00:02', null),
        nic('02:f1:00:00:00:03', '10.1.3.18'),
      ],
    }),
    networks,
  );
  t.strictSame(yamlOf(files, 'network-config'), {
    version: 2,
    ethernets: {
      eth0: {
        match: { macaddress: '02:f1:00:00:00:01' },
        'set-name': 'eth0',
        dhcp4: false,
        addresses: ['10.1.2.17/23'],
        routes: [{ to: '0.0.0.0/0', via: '10.1.2.1' }],
        nameservers: { addresses: ['10.1.2.2', '9.9.9.9'] },
      },
      eth1: { match: { macaddress: '02:f1:00:00:00:02' }, 'set-name': 'eth1', dhcp4: true, optional: true },
      eth2: {
        match: { macaddress: '02:f1:00:00:00:03' },
        'set-name': 'eth2',
        dhcp4: false,
        addresses: ['10.1.3.18/23'],
        nameservers: { addresses: ['10.1.2.2', '9.9.9.9'] },
      },
    },
  });
  t.strictSame(yamlOf(files, 'meta-data'), { 'instance-id': id, 'local-hostname': 'web-1' });
});

await t.test('a login of one’s own, the image’s, or root', async (t) => {
  const keys = ['ssh-ed25519 AAAA me@home', 'ssh-rsa BBBB "quoted": # yes'];
  const data = (o: Partial<CloudInit>) => {
    const files = seedFiles(spec({ cloudInit: ci({ sshKeys: keys, ...o }) }), networks);
    t.match(files['user-data'], /^#cloud-config\n/);
    return yamlOf(files, 'user-data');
  };
  t.match(data({ user: 'ann', hostname: 'db' }), {
    hostname: 'db',
    users: [{ name: 'ann', sudo: 'ALL=(ALL) NOPASSWD:ALL', ssh_authorized_keys: keys }],
  });
  t.match(data({}), { hostname: 'web-1', ssh_authorized_keys: keys, users: undefined });
  t.match(data({ user: 'root' }), {
    disable_root: false,
    users: [{ name: 'root', ssh_authorized_keys: keys }],
  });
});

await t.test('no name or key changes its meaning on the way through YAML', async (t) => {
  const key = fc
    .string({ unit: 'binary', minLength: 1, maxLength: 60 })
    .filter((k) => cloudInitSchema.shape.sshKeys.safeParse([k]).success);
  fc.assert(
    fc.property(
      fc.array(
        fc.oneof(key, fc.constantFrom('no', '1e3', 'a: b', '- x', '# c', '"', '\u0085', '\u2028', '~')),
        { maxLength: 4 },
      ),
      (sshKeys) => {
        const files = seedFiles(spec({ cloudInit: ci({ sshKeys }) }), networks);
        t.strictSame(yamlOf(files, 'user-data')['ssh_authorized_keys'] ?? [], sshKeys);
      },
    ),
  );
});

await t.test('a host name is made of any VM name', async (t) => {
  t.equal(hostnameOf({ id, name: 'Müller’s DB.prod_2' }), 'muller-s-db-prod-2');
  t.equal(hostnameOf({ id, name: '数据库' }), 'vm-11111111');
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (name) => {
      t.match(hostnameOf({ id, name }), /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/);
    }),
  );
});

await t.test('what cloud-init would silently drop is refused', async (t) => {
  const refuse = (o: Partial<CloudInit>, code: string, text: RegExp) =>
    t.throws(() => seedFiles(spec({ cloudInit: ci(o) }), networks), { code, message: text });
  refuse({ userData: 'packages: [nginx]' }, 'bad-input', /does not know/);
  refuse({ userData: '#cloud-config\n- a\n- b' }, 'bad-input', /no YAML mapping/);
  refuse({ userData: '#cloud-config\na: [1' }, 'bad-input', /no YAML/);
  refuse({ userData: `#!/bin/sh\n${'数'.repeat(30_000)}` }, 'too-large', /65536/);
  refuse({ networkConfig: 'just text' }, 'bad-input', /mapping/);
  t.throws(() => seedFiles(spec(), new Map()), { code: 'not-found' });
  t.throws(() => seedFiles(spec(), new Map([[net.id, { ...net, subnet: null }]])), { code: 'bad-input' });
  const own = '#!/bin/sh\necho "hi"  \n';
  t.equal(
    seedFiles(spec({ cloudInit: ci({ userData: own }) }), networks)['user-data'],
    own,
    'one’s own text as it is',
  );
});

await t.test('the seed is an ISO that cloud-init finds, with its files in it', async (t) => {
  const environment = ci({ ovfEnvironment: '<Environment/>' });
  for (const wanted of [spec(), spec({ cloudInit: environment })]) await seedHolds(t, wanted);
});

async function seedHolds(t: Test, wanted: VmSpec): Promise<void> {
  const dir = fs.mkdtempSync(`${t.testdir()}/seed-`);
  const path = await new Seeds({ stateDir: dir }).make(wanted, networks);
  t.equal(path, `${dir}/seeds/${id}.iso`);
  t.equal(fs.statSync(path).mode & 0o777, 0o600);
  const report = execFileSync('xorriso', ['-indev', path, '-pvd_info'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.match(report, /Volume Id\s*: CIDATA/);
  execFileSync('xorriso', ['-osirrox', 'on', '-indev', path, '-extract', '/', `${dir}/out`], {
    stdio: 'ignore',
  });
  const want = seedFiles(wanted, networks);
  t.strictSame(fs.readdirSync(`${dir}/out`).sort(), Object.keys(want).sort());
  for (const [name, text] of Object.entries(want))
    t.equal(fs.readFileSync(`${dir}/out/${name}`, 'utf8'), text);
}

await t.test('the same content gives the same bytes, and is not written again', async (t) => {
  const a = t.testdir();
  const paths = [];
  let runs = 0;
  for (const sub of ['x', 'y']) {
    fs.mkdirSync(`${a}/${sub}`);
    const seeds = new Seeds({
      stateDir: `${a}/${sub}`,
      run: (...args) => {
        runs++;
        return runTool(...args);
      },
    });
    paths.push(await seeds.make(spec(), networks));
    const before = fs.statSync(paths.at(-1) ?? '');
    // An edit that says nothing to the guest is no reason to write.
    await Promise.all(
      [1, 2, 3].map((generation) => seeds.make(spec({ generation, memoryMiB: 512 }), networks)),
    );
    t.equal(fs.statSync(paths.at(-1) ?? '').ino, before.ino);
  }
  t.equal(runs, 2);
  t.ok(fs.readFileSync(paths[0] ?? '').equals(fs.readFileSync(paths[1] ?? '')), 'same bytes on two nodes');
});

await t.test(
  'an edit writes it anew, a crash leaves the old one whole, and removing removes all',
  async (t) => {
    const dir = t.testdir();
    const seeds = new Seeds({ stateDir: dir });
    const path = await seeds.make(spec(), networks);
    const old = fs.readFileSync(path);
    const dying = new Seeds({
      stateDir: dir,
      run: async (_file, args) => {
        fs.writeFileSync(args[args.indexOf('-o') + 1] ?? '', 'half');
        throw new Error('died');
      },
    });
    const edited = spec({ cloudInit: ci({ hostname: 'new' }) });
    await t.rejects(dying.make(edited, networks), { code: 'tool-failed', message: /web 1/ });
    t.ok(fs.readFileSync(path).equals(old));
    t.strictSame(fs.readdirSync(`${dir}/seeds`), [`${id}.iso`]);
    // What a killed agent leaves does not hinder the next.
    fs.mkdirSync(`${dir}/seeds/.${id}.tmp`);
    fs.writeFileSync(`${dir}/seeds/.${id}.tmp/user-data`, 'old');
    fs.writeFileSync(`${dir}/seeds/.${id}.tmp.iso`, 'half');
    await seeds.make(edited, networks);
    t.notOk(fs.readFileSync(path).equals(old));
    await seeds.make(spec(), networks);
    t.ok(fs.readFileSync(path).equals(old), 'and back again');
    await seeds.remove(id);
    await seeds.remove(id);
    t.strictSame(fs.readdirSync(`${dir}/seeds`), []);
  },
);

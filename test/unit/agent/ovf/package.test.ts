import { execFile } from 'node:child_process';
import { createSign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { OvfArchive, type PackageOptions, type PackageReport } from '../../../../agent/ovf/package.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import { fixture, packageOf } from '../../core/ovf/read.js';
import { folder, manifestOf, tarOf } from './make.js';

const options: PackageOptions = {
  verify: true,
  nowMs: Date.UTC(2026, 0, 1),
  signal: new AbortController().signal,
};

async function report(file: string, o: Partial<PackageOptions> = {}): Promise<PackageReport> {
  return (await OvfArchive.open(file)).report({ ...options, ...o });
}

async function refusal(file: string): Promise<string> {
  try {
    await report(file);
  } catch (e) {
    if (e instanceof FlotillaError && ['bad-input', 'too-large'].includes(e.code)) return e.message;
    throw e;
  }
  return 'was taken';
}

const warnings = (r: PackageReport): string[] => r.warnings.map((w) => w.text);

/** A package of one disk. */
const ovf = packageOf({
  files: '<File ovf:id="f" ovf:href="my%20disk.img" ovf:size="6"/>',
  disks: '<Disk ovf:diskId="d" ovf:capacity="512" ovf:fileRef="f"/>',
});
const files = { 'x.ovf': ovf, 'my disk.img': 'bytes!' };
const ova = (
  o: { manifest?: string; extra?: { name: string; data: string }[]; disk?: string } = {},
): Buffer =>
  tarOf([
    { name: 'x.ovf', data: ovf },
    { name: 'x.mf', data: o.manifest ?? manifestOf(files) },
    { name: 'my disk.img', data: o.disk ?? 'bytes!' },
    ...(o.extra ?? []),
  ]);

void t.test('an OVA, whole', async (t) => {
  const dir = await folder(t, { 'x.ova': ova() });
  const archive = await OvfArchive.open(path.join(dir, 'x.ova'));
  const shares: number[] = [];
  const r = await archive.report({ ...options, progress: (s) => shares.push(s) });
  t.match(r, {
    file: 'x.ova',
    kind: 'ova',
    descriptor: 'x.ovf',
    manifest: { name: 'x.mf', verified: ['x.ovf', 'my disk.img'], unverified: [] },
    signer: null,
    files: [{ id: 'f', storedBytes: 6, names: ['my disk.img'] }],
  });
  t.equal(shares.at(-1), 1);
  const [file] = r.files;
  if (file === undefined) return;
  let text = '';
  for await (const part of archive.content(file, 2)) text += part.toString();
  t.equal(text, 'tes!');
  for (const algorithm of ['sha1', 'sha512']) {
    await writeFile(path.join(dir, 'x.ova'), ova({ manifest: manifestOf(files, algorithm) }));
    t.match(await report(path.join(dir, 'x.ova')), { manifest: { verified: { length: 2 } } }, algorithm);
  }
});

void t.test('an OVA with something wrong', async (t) => {
  const dir = await folder(t, {});
  const at = async (bytes: Buffer): Promise<string> => {
    await writeFile(path.join(dir, 'x.ova'), bytes);
    return path.join(dir, 'x.ova');
  };
  t.match(
    await refusal(await at(ova({ disk: 'other!' }))),
    /^x\.mf line 2: "my disk.img" has another SHA256 checksum/,
  );
  t.match(
    await report(await at(ova({ disk: 'other!' })), { verify: false }),
    { manifest: { verified: ['x.ovf'], unverified: ['my disk.img'] } },
    'unless they are not to be computed',
  );
  t.match(
    await refusal(await at(ova({ manifest: manifestOf({ ...files, 'x.ovf': 'other' }) }))),
    /^x\.mf line 1: "x.ovf" has another SHA256 checksum/,
  );
  t.match(
    await refusal(await at(ova({ manifest: manifestOf({ ...files, gone: '' }) }))),
    /^x\.mf line 3: "gone" is not in the package/,
  );
  t.match(
    await refusal(await at(ova({ manifest: 'what?' }))),
    /^x\.mf line 1: "what\?" is no line of a manifest/,
  );
  t.match(
    warnings(
      await report(
        await at(ova({ manifest: manifestOf({ 'x.ovf': ovf }), extra: [{ name: 'y.txt', data: '' }] })),
      ),
    ),
    [/manifest says nothing of "my disk.img"/, /1 files that nothing refers to: y.txt/],
  );
  const alone = tarOf([{ name: 'x.ovf', data: ovf }]);
  t.match(await refusal(await at(alone)), /^x\.ovf line 2: the file "my%20disk.img" is not in the package/);
  const last = tarOf([
    { name: 'my disk.img', data: 'bytes!!' },
    { name: 'x.ovf', data: ovf },
  ]);
  t.match(warnings(await report(await at(last))), [
    /has 7 bytes, not 6/,
    /there is no manifest/,
    /descriptor is not the first file/,
  ]);
  t.match(await refusal(await at(tarOf([{ name: 'a.txt' }]))), /there is no \.ovf in it/);
  t.match(await refusal(await at(tarOf([{ name: 'a.ovf' }, { name: 'b.ovf' }]))), /there are 2 \.ovf files/);
  const forks = tarOf([
    { name: './._x.ovf', data: 'of macOS' },
    { name: 'x.ovf', data: ovf },
    { name: '._my disk.img', data: 'of macOS' },
    { name: 'my disk.img', data: 'bytes!' },
  ]);
  t.match(
    warnings(await report(await at(forks))),
    [/there is no manifest/],
    'what macOS adds is passed over',
  );
  t.match(
    await refusal(await at(tarOf([{ name: 'a.ovf', data: Buffer.alloc(17 * 2 ** 20, 32) }]))),
    /a\.ovf has \d+ bytes/,
  );
  t.match(await refusal(await at(Buffer.from([0x1f, 0x8b, 8]))), /it is compressed \(gzip\)/);
  t.match(await refusal(await at(Buffer.from('PK\u0003\u0004'))), /zip archive/);
  t.match(await refusal(await at(Buffer.alloc(0))), /it is empty/);
  t.match(await refusal(path.join(dir, 'nothing.ova')), /cannot be read/);
  t.match(await refusal('/dev/null'), /it is no file/);
  const inner = tarOf([
    { name: 'dir/x.ovf', data: ovf },
    { name: 'dir/my disk.img', data: 'bytes!' },
    { name: 'dir/x.mf', data: manifestOf(files) },
  ]);
  t.match(await report(await at(inner)), {
    files: [{ names: ['dir/my disk.img'] }],
    manifest: { verified: ['x.ovf', 'my disk.img'] },
  });
});

void t.test('a descriptor with files beside it', async (t) => {
  const dir = await folder(t, {
    'three-tier.ovf': fixture('three-tier.ovf'),
    'texts-de.xml': fixture('texts-de.xml'),
    'base.vmdk': Buffer.alloc(4096),
    'data disk.img.gz': Buffer.alloc(300),
    'large.vmdk.000000000': Buffer.alloc(1000),
    'large.vmdk.000000001': Buffer.alloc(1000, 1),
    'large.vmdk.000000002': Buffer.alloc(500, 2),
  });
  const file = path.join(dir, 'three-tier.ovf');
  const archive = await OvfArchive.open(file);
  const r = await archive.report({ ...options, language: 'de' });
  t.match(r, { kind: 'ovf', file, manifest: null, signer: null });
  t.strictSame(
    r.files.map((f) => [f.id, f.storedBytes, f.names.length]),
    [
      ['base', 4096, 1],
      ['data', 300, 1],
      ['large', 2500, 3],
      ['texts-de', Buffer.byteLength(fixture('texts-de.xml')), 1],
      ['tools', null, 0],
    ],
  );
  t.equal(r.deploymentOptions[0]?.label, 'Klein', 'texts are read from their file');
  t.match(warnings(r).slice(-2), [/"tools.iso" is not in the package/, /no manifest/]);
  const large = r.files[2];
  if (large === undefined) return;
  const parts: Buffer[] = [];
  for await (const part of archive.content(large, 1500)) parts.push(Buffer.from(part));
  t.strictSame(Buffer.concat(parts), Buffer.concat([Buffer.alloc(500, 1), Buffer.alloc(500, 2)]));
  t.match(await report(dir), { id: 'shop' }, 'the folder itself may be named');

  await writeFile(path.join(dir, 'large.vmdk.000000001'), Buffer.alloc(900));
  t.match(await refusal(file), /line 10: piece 1 of "large\.vmdk" has 900 bytes, not 1000/);
});

void t.test('a piece that is missing', async (t) => {
  const source = packageOf({ files: '<File ovf:id="f" ovf:href="d" ovf:size="2500" ovf:chunkSize="1000"/>' });
  const dir = await folder(t, {
    'x.ovf': source,
    'd.000000000': Buffer.alloc(1000),
    'd.000000002': Buffer.alloc(500),
  });
  t.match(
    await refusal(path.join(dir, 'x.ovf')),
    /line 2: the pieces of "d" have 1000 of 2500 bytes: one is missing/,
  );
});

void t.test('links that lead out of a folder are not followed', async (t) => {
  const dir = await folder(t, { 'x.ovf': ovf, inside: 'bytes!' });
  await symlink('/etc/hostname', path.join(dir, 'my disk.img'));
  t.match(await refusal(path.join(dir, 'x.ovf')), /"my disk\.img" is a link that leads out of the package/);
  const good = await folder(t, { 'x.ovf': ovf, inside: 'bytes!' });
  await symlink('inside', path.join(good, 'my disk.img'));
  t.match(await report(path.join(good, 'x.ovf')), { files: [{ storedBytes: 6 }] });
  const evil = await folder(t, {
    'x.ovf': ovf,
    'x.mf': manifestOf({ '../../../../../../etc/hostname': '' }),
  });
  t.match(await refusal(path.join(evil, 'x.ovf')), /^x\.mf line 1: ".*hostname" is outside of the package/);
});

void t.test('certificates', async (t) => {
  const mf = manifestOf(files);
  const dir = await folder(t, { 'x.ovf': ovf, 'my disk.img': 'bytes!', 'x.mf': mf });
  const key = path.join(dir, 'key');
  await promisify(execFile)('openssl', [
    ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '30', '-subj', '/O=Example/CN=signer'],
    ...['-keyout', key, '-out', path.join(dir, 'pem')],
  ]);
  const pem = readFileSync(path.join(dir, 'pem'), 'utf8');
  const signature = createSign('sha256').update(mf).sign(readFileSync(key, 'utf8'), 'hex');
  const file = path.join(dir, 'x.ovf');
  const cert = (text: string): Promise<void> => writeFile(path.join(dir, 'x.cert'), text);
  await cert(`SHA256(x.mf)= ${signature}\n${pem}`);
  const now = Date.now();
  const r = await report(file, { nowMs: now });
  t.match(r.signer, { subject: 'O=Example, CN=signer', selfSigned: true, expired: false });
  t.strictSame(warnings(r), []);
  t.match(warnings(await report(file, { nowMs: now + 60 * 86_400_000 })), [
    /signer's certificate is not valid now/,
  ]);
  await cert(`SHA256(x.mf)= ${signature.replace(/^../, 'ab')}\n${pem}`);
  t.match(await refusal(file), /^x\.cert line 1: the signature is not that of "x\.mf"/);
  await cert(`SHA256(y.mf)= ${signature}\n${pem}`);
  t.match(await refusal(file), /it signs "y\.mf", not "x\.mf"/);
  await cert(`SHA256(x.mf)= ${signature}\n`);
  t.match(await refusal(file), /there is no certificate in it/);
  await cert(`SHA256(x.mf)= ${signature}\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n`);
  t.match(await refusal(file), /its certificate cannot be read/);
  await cert('');
  t.match(await refusal(file), /x\.cert/);
});

void t.test('a file that is said to be elsewhere', async (t) => {
  const dir = await folder(t, { 'secret.vmdk': 'secret', 'texts.iso': '<Strings/>' });
  const source = packageOf({
    files:
      '<File ovf:id="f" ovf:href="../secret.vmdk" ovf:size="6"/><File ovf:id="s" ovf:href="../texts.iso"/>',
    disks: '<Disk ovf:diskId="d" ovf:capacity="512" ovf:fileRef="f"/>',
  }).replace('</Envelope>', '<Strings ovf:fileRef="s"/></Envelope>');
  await mkdir(path.join(dir, 'in'));
  const lone = path.join(dir, 'in/x.ovf');
  await writeFile(lone, source);
  await writeFile(path.join(dir, 'in/x.mf'), manifestOf({ 'x.ovf': source, '../secret.vmdk': 'other' }));
  const r = await report(lone);
  t.match(
    r.files,
    [
      { href: '../secret.vmdk', outside: true, storedBytes: null, names: [] },
      { href: '../texts.iso', outside: true, storedBytes: null },
    ],
    'neither looked for nor opened',
  );
  t.match(r.manifest, { verified: ['x.ovf'], unverified: ['../secret.vmdk'] });
  t.match(warnings(r).slice(0, 2), [/"\.\.\/secret\.vmdk" is outside of the package/, /texts\.iso/]);

  await writeFile(path.join(dir, 'x.ova'), tarOf([{ name: 'x.ovf', data: source }]));
  t.match(
    await refusal(path.join(dir, 'x.ova')),
    /^x\.ovf line 2: the file "\.\.\/secret\.vmdk" is outside of the package/,
  );
});

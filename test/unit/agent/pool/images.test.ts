import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import t from 'tap';
import {
  bytesOf,
  codeOf,
  faultOf,
  filesBelow,
  imageOf,
  importFile,
  infoOf,
  MiB,
  noise,
  poolAt,
  qemuImg,
  volumesAt,
  work,
} from './fixture.js';

const setUp = (t: { testdir: () => string }) => {
  const dir = t.testdir();
  return { dir, pool: poolAt(`${dir}/pool`), v: volumesAt(dir) };
};
const sha256 = (b: Buffer) => createHash('sha256').update(b).digest('hex');

/** A disk of 4 MiB with noise in its first and third MiB. */
function source(dir: string): string {
  fs.writeFileSync(
    `${dir}/src.raw`,
    Buffer.concat([noise(MiB), Buffer.alloc(MiB), noise(MiB, 7), Buffer.alloc(MiB)]),
  );
  return `${dir}/src.raw`;
}

await t.test('every format that is taken ends as a qcow2 of its own with the same data', async (t) => {
  const { v, pool, dir } = setUp(t);
  const raw = source(dir);
  for (const [format, options] of [
    ['raw', []],
    ['qcow2', []],
    ['qcow2', ['-c']],
    ['vmdk', ['-o', 'subformat=streamOptimized']],
    ['vmdk', []],
    ['vhdx', []],
    ['vpc', ['-o', 'force_size=on']],
    ['vpc', ['-o', 'subformat=fixed,force_size=on']],
  ] as const) {
    const file = `${dir}/in`;
    fs.rmSync(file, { force: true });
    qemuImg('convert', '-f', 'raw', '-O', format, ...options, raw, file);
    const image = await importFile(v, pool, file);
    const path = v.imagePath(image, pool);
    t.equal(image.format, 'qcow2', `${format} ${options.join(' ')}`);
    t.equal(image.sha256, sha256(fs.readFileSync(file)));
    t.equal(image.sizeBytes, fs.statSync(path).size);
    t.equal(image.virtualSizeBytes, 4 * MiB);
    t.match(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', raw, path), 'identical');
    t.equal(fs.statSync(path).mode & 0o777, 0o600);
    const facts = await v.imageFacts(image.id, pool);
    t.equal(facts?.storedSha256, sha256(fs.readFileSync(path)));
    await v.removeImage(image, pool);
    t.strictSame(filesBelow(pool.path), []);
  }
});

await t.test('an ISO stays as it is', async (t) => {
  const { v, pool, dir } = setUp(t);
  fs.writeFileSync(`${dir}/hello`, 'hello');
  execFileSync('xorriso', ['-as', 'mkisofs', '-quiet', '-o', `${dir}/x.iso`, '-V', 'X', `${dir}/hello`]);
  const image = await importFile(v, pool, `${dir}/x.iso`);
  t.equal(image.format, 'iso');
  t.strictSame(fs.readFileSync(v.imagePath(image, pool)), fs.readFileSync(`${dir}/x.iso`));
  const cut = fs.readFileSync(`${dir}/x.iso`).subarray(0, 64 * 1024);
  const bad = imageOf(pool);
  await v.upload(bad, pool, 0, bytesOf(cut));
  t.match((await faultOf(v.importImage(bad, pool, work())))?.message, /cut off/);
});

await t.test('imported twice, also when the first answer was lost, it gives the same facts', async (t) => {
  const { v, pool, dir } = setUp(t);
  const image = await importFile(v, pool, source(dir));
  const again = await volumesAt(dir, { boot: 'boot-2' }).importImage(
    { ...image, state: 'importing' },
    pool,
    work(),
  );
  t.match(image, again);
});

await t.test('an upload goes on where it broke off, also after a crash of the agent', async (t) => {
  const { v, pool, dir } = setUp(t);
  const data = fs.readFileSync(source(dir));
  const image = imageOf(pool, { expectedBytes: data.length, sha256: sha256(data) });
  async function* broken() {
    yield data.subarray(0, MiB);
    throw new Error('the client went away');
  }
  t.equal(await v.uploadOffset(image, pool), 0);
  await t.rejects(v.upload(image, pool, 0, broken()), /went away/);
  t.equal(await v.uploadOffset(image, pool), MiB);
  t.match(await faultOf(v.importImage(image, pool, work())), {
    code: 'offset-mismatch',
    details: { offset: MiB },
  });
  t.match(await faultOf(v.upload(image, pool, 5, bytesOf('x'))), {
    code: 'offset-mismatch',
    details: { offset: MiB },
  });

  // The next boot trusts what was flushed, and nothing behind it.
  fs.appendFileSync(`${pool.path}/incoming/${image.id}`, 'not flushed');
  const next = volumesAt(dir, { boot: 'boot-2' });
  t.equal(await next.uploadOffset(image, pool), MiB);
  t.equal(await next.upload(image, pool, MiB, bytesOf(data.subarray(MiB))), data.length);
  t.match(await next.importImage(image, pool, work()), { format: 'qcow2', sha256: sha256(data) });
  t.strictSame(
    filesBelow(pool.path).filter((f) => f.startsWith('incoming/')),
    [],
  );
});

await t.test('an upload longer than announced stops at once', async (t) => {
  const { v, pool } = setUp(t);
  const image = imageOf(pool, { expectedBytes: 10 });
  t.equal(await codeOf(v.upload(image, pool, 0, bytesOf('0123456789', 'x'))), 'too-large');
  t.equal(await v.uploadOffset(image, pool), 10);
});

await t.test('a newer upload ends an older one that hangs', async (t) => {
  const { v, pool } = setUp(t);
  const image = imageOf(pool, { expectedBytes: 1024 });
  let blocked = (): void => undefined;
  const isBlocked = new Promise<void>((resolve) => (blocked = resolve));
  async function* hanging() {
    yield Buffer.alloc(512, 1);
    blocked();
    await new Promise(() => undefined);
  }
  const first = codeOf(v.upload(image, pool, 0, hanging()));
  await isBlocked;
  const second = v.upload(image, pool, 512, bytesOf(Buffer.alloc(512, 2)));
  t.equal(await first, 'cancelled');
  t.equal(await second, 1024);
  const file = fs.readFileSync(`${pool.path}/incoming/${image.id}`);
  t.strictSame([file[511], file[512], file.length], [1, 2, 1024]);
});

/**
 * What `qemu-img create -f qcow2 -o encrypt.format=luks` wrote, its header as captured and zeros behind: made on the
 * spot it would fail at times, because QEMU first times how fast this machine derives keys, and gives up on a busy one.
 */
function luksImage(path: string): string {
  const head = Buffer.from(
    fs.readFileSync('test/fixtures/qemu-img/7.2/luks-qcow2-head.hex', 'latin1').replace(/\s/g, ''),
    'hex',
  );
  fs.writeFileSync(path, head);
  fs.truncateSync(path, 2_359_296);
  return path;
}
/** The old encryption derives no key, so nothing is timed. */
const aes = [
  ...['create', '-q', '--object', 'secret,id=s,data=abc', '-f', 'qcow2'],
  ...['-o', 'encrypt.format=aes,encrypt.key-secret=s'],
];

await t.test('what is refused leaves nothing behind', async (t) => {
  const { v, pool, dir } = setUp(t);
  const raw = source(dir);
  const file = (name: string, ...args: string[]) => {
    qemuImg(...args.map((a) => (a === '@' ? `${dir}/${name}` : a)));
    return `${dir}/${name}`;
  };
  const cases: [string, string, RegExp][] = [
    [
      'backing file',
      file('a', 'create', '-q', '-f', 'qcow2', '-b', '/etc/passwd', '-F', 'raw', '@', '5M'),
      /backing file/,
    ],
    [
      'data file',
      file('b', 'create', '-q', '-f', 'qcow2', '-o', `data_file=${dir}/data`, '@', '5M'),
      /data file/,
    ],
    [
      'flat vmdk',
      file('c', 'create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', '@', '5M'),
      /other files/,
    ],
    ['encrypted (LUKS)', luksImage(`${dir}/d`), /encrypted/],
    ['encrypted (AES)', file('d2', ...aes, '@', '5M'), /encrypted/],
  ];
  const cut = (name: string, format: string, keep: number, ...options: string[]) => {
    const path = file(name, 'convert', '-f', 'raw', '-O', format, ...options, raw, '@');
    fs.truncateSync(path, keep < 1 ? Math.floor((fs.statSync(path).size * keep) / 512) * 512 : keep);
    return path;
  };
  cases.push(
    ['qcow2 cut in its data', cut('e', 'qcow2', 0.6), /damaged|cut off/],
    ['qcow2 cut in its tables', cut('f', 'qcow2', 70_000), /read|damaged|cut off/],
    ['vmdk cut', cut('g', 'vmdk', 0.6), /damaged|cut off|read/],
    ['stream vmdk cut', cut('h', 'vmdk', 0.6, '-o', 'subformat=streamOptimized'), /damaged|cut off|read/],
    ['vhdx cut', cut('i', 'vhdx', 0.6), /read|damaged/],
    ['vhd cut', cut('j', 'vpc', 0.6), /cut off/],
  );
  for (const [name, path, pattern] of cases) {
    const image = imageOf(pool, { name: 'bad' });
    await v.upload(image, pool, 0, fs.createReadStream(path));
    const fault = await faultOf(v.importImage(image, pool, work()));
    t.equal(fault?.code, 'image-refused', name);
    t.match(fault?.message, pattern, name);
    t.not(fault?.hint, '');
    t.strictSame(filesBelow(pool.path), [], `${name}: nothing stays`);
  }
});

await t.test('an image larger than the pool is no disk for it, whatever it weighs', async (t) => {
  const { v, pool, dir } = setUp(t);
  qemuImg('create', '-q', '-f', 'qcow2', `${dir}/huge`, '60T');
  const image = imageOf(pool);
  await v.upload(image, pool, 0, fs.createReadStream(`${dir}/huge`));
  const fault = await faultOf(v.importImage(image, pool, work()));
  t.equal(fault?.code, 'no-space');
  t.match(fault?.message, new RegExp(String(60 * 2 ** 40)), 'with the numbers');
});

await t.test('a wrong checksum is told with both, before the file is looked into', async (t) => {
  const { v, pool, dir } = setUp(t);
  const image = imageOf(pool, { sha256: 'a'.repeat(64) });
  await v.upload(image, pool, 0, fs.createReadStream(source(dir)));
  const fault = await faultOf(v.importImage(image, pool, work()));
  t.equal(fault?.code, 'checksum-mismatch');
  t.match(fault?.message, sha256(fs.readFileSync(`${dir}/src.raw`)));
  t.strictSame(filesBelow(pool.path), []);
});

await t.test('nothing uploaded is said so', async (t) => {
  const { v, pool } = setUp(t);
  t.equal(await codeOf(v.importImage(imageOf(pool), pool, work())), 'not-found');
});

await t.test('internal snapshots do not come in', async (t) => {
  const { v, pool, dir } = setUp(t);
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', source(dir), `${dir}/s`);
  qemuImg('snapshot', '-c', 'old', `${dir}/s`);
  const image = await importFile(v, pool, `${dir}/s`);
  t.match(qemuImg('snapshot', '-l', `${dir}/s`), 'old');
  t.notMatch(qemuImg('snapshot', '-l', v.imagePath(image, pool)), 'old');
  t.equal(infoOf(v.imagePath(image, pool)).format, 'qcow2');
});

await t.test(
  'an image of another node is fetched, checked, kept as a copy, and swept when it is no more',
  async (t) => {
    const { v, pool, dir } = setUp(t);
    const image = await importFile(v, pool, source(dir));
    const stored = fs.readFileSync(v.imagePath(image, pool));
    const facts = await v.imageFacts(image.id, pool);
    const there = { ...pool, path: `${dir}/n2pool` };
    const asked: number[] = [];
    let lie = true;
    const n2 = volumesAt(`${dir}/n2`, {
      node: 'n2',
      fetchImage: async (_image, offset) => {
        asked.push(offset);
        async function* data() {
          if (asked.length === 1) {
            yield stored.subarray(0, 100_000);
            throw new Error('the link broke');
          }
          yield lie ? Buffer.alloc(stored.length - offset, 9) : stored.subarray(offset);
        }
        return {
          format: 'qcow2',
          sizeBytes: stored.length,
          virtualSizeBytes: image.virtualSizeBytes,
          storedSha256: facts?.storedSha256 ?? '',
          data: data(),
        };
      },
    });
    t.equal(await codeOf(n2.haveImage(image, there, work())), 'checksum-mismatch');
    t.strictSame(asked, [0, 100_000], 'went on where the link broke');
    t.strictSame(filesBelow(there.path), [], 'what does not match does not stay');
    lie = false;
    const path = await n2.haveImage(image, there, work());
    t.strictSame(fs.readFileSync(path), stored);
    await n2.haveImage(image, there, work());
    t.equal(asked.length, 3, 'fetched once');

    const none = { disks: new Set<string>(), images: new Set<string>() };
    t.strictSame(await n2.sweep(there, { ...none, images: new Set([image.id]) }), []);
    t.equal((await n2.sweep(there, none)).length, 1, 'the copy goes');
    t.strictSame(filesBelow(there.path), []);
    t.strictSame(await v.sweep(pool, none), [], 'an original never goes by a sweep');
    t.ok(fs.existsSync(v.imagePath(image, pool)));
  },
);

import t from 'tap';
import { formatSize, formatSpan, parseSeconds, parseSize } from '../../../../core/domain/units.js';
import { refSchema, rest, vmPatchSchema, type RestRoute } from '../../../../core/wire/rest.js';
import { opKindSchema } from '../../../../core/domain/op.js';
import { vmPowerActionSchema } from '../../../../core/domain/vm.js';

void t.test('the table: each path once per method, parameters declared, bodies strict', (t) => {
  const seen = new Set<string>();
  for (const [name, row] of Object.entries(rest)) {
    const r: RestRoute = row;
    const at = `${r.method} ${r.path}`;
    t.notOk(seen.has(at), at);
    seen.add(at);
    const inPath = [...r.path.matchAll(/\{(.+?)\}/g)].map((m) => m[1]);
    t.same(Object.keys(r.params?.shape ?? {}).sort(), inPath.sort(), name);
    if (r.body !== undefined)
      t.notOk(r.body.safeParse({ surely: 'unknown' }).success, `${name} refuses unknown fields`);
  }
  for (const a of vmPowerActionSchema.options) t.ok(opKindSchema.safeParse(`vm.${a}`).success, a);
  t.notOk(vmPatchSchema.safeParse({}).success);
  t.end();
});

void t.test('references: names in NFC, no paths, no control characters', (t) => {
  t.equal(refSchema.parse('Cafe\u0301'), 'Caf\u00e9');
  for (const bad of ['', 'a/b', 'a\\b', 'a\u0000', '\u001b[2J', 'x'.repeat(300)])
    t.notOk(refSchema.safeParse(bad).success);
  t.end();
});

void t.test('units', (t) => {
  const sizes: [string, number][] = [
    ['1', 1],
    ['512M', 512 * 2 ** 20],
    ['10g', 10 * 2 ** 30],
    ['1.5T', 1.5 * 2 ** 40],
    ['2GiB', 2 ** 31],
    ['2 GB', 2 ** 31],
  ];
  for (const [text, bytes] of sizes) t.equal(parseSize(text), bytes, text);
  for (const bad of ['', '-1', '1P', 'G', '1e9', '0x10', '1 0', '9'.repeat(30), '١G'])
    t.throws(() => parseSize(bad), { code: 'bad-input' }, bad);
  t.same([0, 1023, 1024, 1536, 10 * 2 ** 30, 2 ** 50].map(formatSize), [
    '0 B',
    '1023 B',
    '1 KiB',
    '1.5 KiB',
    '10 GiB',
    '1024 TiB',
  ]);
  t.same(
    ['90', '90s', '5m', '2h', '7d'].map((s) => parseSeconds(s)),
    [90, 90, 300, 7200, 604_800],
  );
  for (const bad of ['', '-5', '1.5h', '5 m', 'm'])
    t.throws(() => parseSeconds(bad), { code: 'bad-input' }, bad);
  t.same([0, 61_000, 3_600_000, 90_000_000].map(formatSpan), ['0 s', '1 min 1 s', '1 h', '1 d 1 h']);
  t.end();
});

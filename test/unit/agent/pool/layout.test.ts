import fc from 'fast-check';
import t from 'tap';
import {
  diskPath,
  imagePath,
  incomingPath,
  parseFinalName,
  parseTempName,
  tempPath,
} from '../../../../agent/pool/layout.js';

const node = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/);
const pool = { path: '/srv/pool' };

await t.test('a temporary name tells whose it is, and whose work', async (t) => {
  fc.assert(
    fc.property(fc.uuid(), node, fc.uuid(), fc.constantFrom(undefined, 'facts'), (id, n, boot, part) => {
      const path = tempPath(pool, 'disks', id, { node: n, boot }, part);
      const name = path.slice('/srv/pool/disks/'.length);
      t.strictSame(parseTempName(name), { id, node: n, boot });
      t.equal(parseFinalName(name), null, 'it is never taken for a finished file');
    }),
  );
});

await t.test('a finished name is never taken for a temporary one', async (t) => {
  fc.assert(
    fc.property(fc.uuid(), fc.constantFrom('raw' as const, 'qcow2' as const), (id, format) => {
      const name = diskPath({ id, format }, pool).split('/').at(-1) ?? '';
      t.equal(parseTempName(name), null);
      t.strictSame(parseFinalName(name), { id, ext: format });
    }),
  );
});

await t.test('any other name is nobody’s', async (t) => {
  fc.assert(
    fc.property(fc.string(), (name) => {
      t.equal(parseTempName(name), null);
      t.equal(parseFinalName(name), null);
    }),
  );
  t.equal(parseTempName('.notes.tmp.n1.boot'), null);
  t.equal(parseTempName('.00000000-0000-0000-0000-00000000000g.tmp.n1.b'), null);
});

await t.test('an id that is no UUID never becomes a path', async (t) => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.constantFrom('../../etc/passwd', '..', 'a/b', '', '\0')), (id) => {
      t.throws(() => diskPath({ id, format: 'raw' }, pool));
      t.throws(() => imagePath({ id, format: 'iso' }, pool));
      t.throws(() => incomingPath(id, pool));
      t.throws(() => tempPath(pool, 'disks', id, { node: 'n1', boot: 'b' }));
    }),
  );
});

import t from 'tap';
import type { Ledger } from '../../../../agent/ledger/ledger.js';

/** Two clients of one ledger, and how to wait for things of its clock. */
export interface Pair {
  readonly a: Ledger;
  readonly b: Ledger;
  /** Lets time pass until the condition holds. @throws after a limit */
  readonly until: (what: string, holds: () => boolean | Promise<boolean>) => Promise<void>;
}

/**
 * What every implementation of {@link Ledger} must do alike: run against memory and against a real etcd, so that
 * what the simulator proves holds for what ships.
 */
export async function behaviour(name: string, make: () => Promise<Pair>): Promise<void> {
  await t.test(name, async (t) => {
    const { a, b, until } = await make();
    let n = 0;
    const fresh = () => `/flotilla/test/${n++}/`;

    await t.test('what one writes the other reads; what is not there is null', async (t) => {
      const p = fresh();
      t.equal(await a.get(`${p}x`), null);
      const w = await a.txn(
        [{ key: `${p}x`, createRevision: 0n }],
        [{ put: `${p}x`, value: 'naïve ✓ "q"\n' }],
      );
      t.ok(w.done);
      const e = await b.get(`${p}x`);
      t.match(e, {
        key: `${p}x`,
        value: 'naïve ✓ "q"\n',
        modRevision: w.revision,
        createRevision: w.revision,
        lease: '0',
      });
      t.ok((await a.txn([], [{ put: `${p}x`, value: '' }])).done);
      const after = await b.get(`${p}x`);
      t.equal(after?.value, '', 'an empty value is a value');
      t.equal(after?.createRevision, w.revision, 'the creation stays');
      t.ok(after && after.modRevision > w.revision);
    });

    await t.test('a compare that does not hold writes nothing', async (t) => {
      const p = fresh();
      const w = await a.txn([], [{ put: `${p}x`, value: '1' }]);
      for (const compare of [
        { key: `${p}x`, modRevision: w.revision - 1n },
        { key: `${p}x`, modRevision: 0n },
        { key: `${p}x`, createRevision: 0n },
        { key: `${p}x`, value: '2' },
        { key: `${p}absent`, value: '' },
        { key: `${p}absent`, createRevision: 1n },
      ]) {
        const r = await b.txn(
          [compare],
          [
            { put: `${p}x`, value: 'no' },
            { put: `${p}y`, value: 'no' },
          ],
        );
        t.notOk(
          r.done,
          JSON.stringify(compare, (_, v: unknown) => (typeof v === 'bigint' ? String(v) : v)),
        );
      }
      t.equal((await a.get(`${p}x`))?.value, '1');
      t.equal(await a.get(`${p}y`), null);
      const held = await b.txn(
        [
          { key: `${p}x`, modRevision: w.revision },
          { key: `${p}x`, value: '1' },
          { key: `${p}y`, modRevision: 0n },
        ],
        [
          { put: `${p}x`, value: '2' },
          { put: `${p}y`, value: '2' },
        ],
      );
      t.ok(held.done);
      t.equal((await a.get(`${p}y`))?.modRevision, held.revision, 'both at one revision');
      t.equal((await a.get(`${p}x`))?.modRevision, held.revision);
    });

    await t.test('of many that race for one key exactly one wins', async (t) => {
      const p = fresh();
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, i) =>
          (i % 2 ? a : b).txn([{ key: `${p}x`, createRevision: 0n }], [{ put: `${p}x`, value: String(i) }]),
        ),
      );
      t.equal(results.filter((r) => r.done).length, 1);
    });

    await t.test('deleting, one or all below a prefix, not its neighbours', async (t) => {
      const p = fresh();
      await a.txn(
        [],
        [...'abc'].map((k) => ({ put: `${p}d/${k}`, value: k })),
      );
      await a.txn(
        [],
        [
          { put: `${p}d0`, value: 'neighbour' },
          { put: `${p}d`, value: 'neighbour' },
        ],
      );
      t.ok((await a.txn([], [{ del: `${p}d/b` }])).done);
      t.same(
        (await b.list(`${p}d/`)).entries.map((e) => e.key),
        [`${p}d/a`, `${p}d/c`],
      );
      t.ok((await a.txn([], [{ delPrefix: `${p}d/` }])).done);
      t.same((await b.list(`${p}d/`)).entries, []);
      t.ok(await b.get(`${p}d0`));
      t.ok(await b.get(`${p}d`));
      t.ok((await a.txn([], [{ del: `${p}d/never` }])).done, 'deleting what is not there is no fault');
    });

    await t.test('a list is complete, sorted, of one moment, however long', async (t) => {
      const p = fresh();
      const keys = Array.from({ length: 1203 }, (_, i) => `${p}${String(i).padStart(5, '0')}`);
      for (let i = 0; i < keys.length; i += 100) {
        await a.txn(
          [],
          keys.slice(i, i + 100).map((put) => ({ put, value: 'v'.repeat(50) })),
        );
      }
      const l = await b.list(p);
      t.same(
        l.entries.map((e) => e.key),
        keys,
      );
      t.ok(l.revision >= (l.entries.at(-1)?.modRevision ?? 0n));
    });

    await t.test('values of 64 kB pass, eight of them in a list', async (t) => {
      const p = fresh();
      const value = 'ü'.repeat(32_768);
      for (let i = 0; i < 8; i++) t.ok((await a.txn([], [{ put: `${p}${i}`, value }])).done);
      const l = await b.list(p);
      t.ok(l.entries.length === 8 && l.entries.every((e) => e.value === value));
    });

    await t.test('a transaction that etcd would refuse is refused, with nothing done', async (t) => {
      const p = fresh();
      const bad = { code: 'bad-input', details: { outcome: 'refused' } };
      await t.rejects(
        a.txn(
          [],
          [
            { put: `${p}x`, value: '1' },
            { put: `${p}x`, value: '2' },
          ],
        ),
        bad,
      );
      await t.rejects(a.txn([], [{ put: `${p}x`, value: '1' }, { delPrefix: p }]), bad);
      const many = Array.from({ length: 129 }, (_, i) => ({ put: `${p}${i}`, value: '' }));
      await t.rejects(a.txn([], many), bad);
      t.same((await b.list(p)).entries, []);
    });

    await t.test(
      'a lease that is renewed keeps its key; one that is not loses it; a revoked one at once',
      async (t) => {
        const p = fresh();
        const kept = await a.grantLease(2);
        const left = await a.grantLease(2);
        const revoked = await a.grantLease(60);
        await a.txn(
          [],
          [
            { put: `${p}kept`, value: '', lease: kept },
            { put: `${p}left`, value: '', lease: left },
            { put: `${p}revoked`, value: '', lease: revoked },
          ],
        );
        t.equal((await b.get(`${p}kept`))?.lease, kept);
        await a.revokeLease(revoked);
        t.equal(await b.get(`${p}revoked`), null);
        await until('the lease that nobody renews to end', async () => {
          t.ok((await a.keepAlive(kept)) > 0);
          return (await b.get(`${p}left`)) === null;
        });
        t.ok(await b.get(`${p}kept`));
        t.equal(await a.keepAlive(left), 0, 'gone');
        t.equal(await a.keepAlive(revoked), 0, 'gone');
        await a.revokeLease(left);
        await t.rejects(a.txn([], [{ put: `${p}late`, value: '', lease: left }]), { code: 'not-found' });
        t.equal(await b.get(`${p}late`), null);
        await a.revokeLease(kept);
      },
    );

    await t.test('a watch rings for changes below its prefix, ends when told', async (t) => {
      const p = fresh();
      let rings = 0;
      let others = 0;
      const stop = b.watch(`${p}w/`, () => rings++);
      const stopOther = b.watch(`${p}other/`, () => others++);
      await until('the first ring, of the connection', () => rings > 0 && others > 0);
      const first = rings;
      const quiet = others;
      await a.txn([], [{ put: `${p}w/1`, value: '' }]);
      await until('the ring of a put', () => rings > first);
      const second = rings;
      await a.txn([], [{ del: `${p}w/1` }]);
      await until('the ring of a delete', () => rings > second);
      t.equal(others, quiet, 'the other prefix stays silent');
      stop();
      const ended = rings;
      await a.txn(
        [],
        [
          { put: `${p}w/2`, value: '' },
          { put: `${p}other/2`, value: '' },
        ],
      );
      await until('the ring of the other', () => others > quiet);
      t.equal(rings, ended, 'an ended watch is silent');
      stopOther();
    });

    await t.test('after close every call is refused', async (t) => {
      await b.close();
      await t.rejects(b.get('/flotilla/x'), { code: 'ledger-unavailable' });
    });
    await a.close();
  });
}

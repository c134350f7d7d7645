import fc from 'fast-check';
import t from 'tap';
import { macPrefix, newMac } from '../../../../core/decide/mac.js';
import { macSchema } from '../../../../core/domain/schema.js';

const chance = (draws: number[]) => {
  let i = 0;
  return { below: (n: number) => (draws[i++ % draws.length] ?? 0) % n };
};

await t.test('a new MAC is a valid, local, single one with our beginning', async (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat(255), { minLength: 4 }), (draws) => {
      const mac = newMac(chance(draws), new Set()) ?? '';
      t.equal(macSchema.parse(mac), mac);
      t.ok(mac.startsWith(`${macPrefix}:`));
      t.equal(parseInt(mac.slice(0, 2), 16) & 3, 2, 'locally administered, not multicast');
    }),
  );
});

await t.test('a taken one is not given again', async (t) => {
  const taken = new Set(['02:f1:00:01:02:03']);
  t.equal(newMac(chance([0, 1, 2, 3, 4, 5, 6, 7]), taken), '02:f1:04:05:06:07');
});

await t.test('broken chance ends in an answer, not in a loop', async (t) => {
  t.equal(newMac(chance([0]), new Set(['02:f1:00:00:00:00'])), null);
});

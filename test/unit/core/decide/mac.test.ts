import fc from 'fast-check';
import t from 'tap';
import { macFrom } from '../../../../core/decide/mac.js';
import { macSchema } from '../../../../core/domain/schema.js';

await t.test(
  'property: a made-up address is valid, locally administered, and differs where the chance does',
  async (t) => {
    const hex8 = fc.integer({ min: 0, max: 2 ** 32 - 1 }).map((n) => n.toString(16).padStart(8, '0'));
    fc.assert(
      fc.property(hex8, hex8, (a, b) => {
        t.equal(macSchema.parse(macFrom(a)), macFrom(a));
        t.equal(parseInt(macFrom(a).slice(0, 2), 16) & 3, 2);
        t.equal(macFrom(a) === macFrom(b), a === b);
      }),
    );
  },
);

await t.test('anything but 32 bits is a defect', async (t) => {
  t.throws(() => macFrom('12'), RangeError);
  t.throws(() => macFrom('zzzzzzzz'), RangeError);
});

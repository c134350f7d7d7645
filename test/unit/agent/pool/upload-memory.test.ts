import { setFlagsFromString } from 'node:v8';
import { setImmediate as turn } from 'node:timers/promises';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import { imageOf, MiB, poolAt, volumesAt } from './fixture.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

await t.test('what was written of an upload is not kept in memory until its end', async (t) => {
  const dir = t.testdir();
  const pool = poolAt(`${dir}/pool`);
  const parts: WeakRef<Buffer>[] = [];
  let kept = 0;
  async function* data(): AsyncGenerator<Buffer> {
    for (let i = 0; i < 24; i += 1) {
      const part = Buffer.alloc(MiB, i);
      parts.push(new WeakRef(part));
      yield part;
    }
    // A reference that was looked at lives until the turn's end.
    await turn();
    collect();
    await turn();
    kept = parts.filter((p) => p.deref() !== undefined).length;
  }
  const image = imageOf(pool);
  t.equal(await volumesAt(dir).upload(image, pool, 0, data()), 24 * MiB);
  t.ok(kept <= 3, `${kept} of 24 parts are still in memory`);
});

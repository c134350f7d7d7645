import { spawn } from 'node:child_process';
import path from 'node:path';
import t from 'tap';

/** One pair through hundreds of deaths of its twin, and twenty of each other kind: a part of QEMU that crashed once in some 124. */

await t.test('300 twins die, 20 owners, 20 twins are frozen, 20 owners fall silent', async (t) => {
  const soak = path.join(import.meta.dirname, '../soak.js');
  const child = spawn(
    process.execPath,
    ['--enable-source-maps', soak, '300', '20', '20', '20', 'build/test/ft-soak.jsonl'],
    {
      stdio: ['ignore', 2, 2],
    },
  );
  t.equal(
    await new Promise((resolve) => child.once('exit', resolve)),
    0,
    'each is in build/test/ft-soak.jsonl',
  );
});

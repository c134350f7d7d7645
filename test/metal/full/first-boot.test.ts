import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { waitFor } from '../../lab/harness.js';
import { ImageMachine } from '../image-machine.js';

/** Power is lost at any moment of a first start, on a machine whose BIOS tries its drive before the CD: it comes back by itself. */

const mib = 1024 * 1024;
/** Where the second partition begins: docs/image.md. */
const espAt = 2 * mib;
/** What stands in the first sector until its loaders are written: boot-drive. */
const marker = Buffer.from('\xcd\x18\xf4\xeb\xfdflotilla-unready', 'latin1');

const dir = t.testdir();
const drive = path.join(dir, 'drive.img');
execFileSync('truncate', ['-s', '6G', drive]);
const machine = new ImageMachine({ dir, firmware: 'bios', medium: 'cd', drives: [drive], drivesFirst: true });
t.teardown(() => machine.off());

function write(...parts: (readonly [at: number, bytes: Buffer])[]): void {
  const fd = openSync(drive, 'r+');
  for (const [at, bytes] of parts) writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

let fingerprint = '';

await t.test('power is lost while the drive is prepared', async (t) => {
  for (const afterMs of [0, 700, 2_000, 4_000, 7_000, 11_000]) {
    await machine.on();
    const [said] = await machine.shows(/prepares \/dev\/vda|PENDING: waits/);
    if (said.startsWith('PENDING')) break;
    const beganMs = performance.now();
    await waitFor('its moment', () => performance.now() - beganMs >= afterMs, { everyMs: 20 });
    t.comment(
      `after ${afterMs} ms: ${machine.console.includes('/dev/vda is ready') ? 'ready' : 'not ready'}`,
    );
    await machine.off();
  }
  if (!machine.isOn) await machine.on();
  fingerprint = await machine.pending();
  await machine.off();
  await machine.on({ medium: 'none' });
  t.equal(await machine.pending(), fingerprint, 'from its drive alone');
  await machine.off();
});

await t.test(
  'power was lost before any loader was written: they are written, and it is the same node',
  async (t) => {
    write([0, marker], [espAt, Buffer.alloc(4096)]);
    await machine.on();
    await machine.shows(/writes the loaders of \/dev\/vda/);
    t.equal(await machine.pending(), fingerprint);
    await machine.off();
    await machine.on({ medium: 'none' });
    t.equal(await machine.pending(), fingerprint, 'from its drive alone');
    await machine.off();
  },
);

await t.test('power was lost before the last of them: its own system writes it', async (t) => {
  write([0, marker]);
  await machine.on();
  await machine.shows(/Booting `Flotilla, slot a'/);
  t.equal(await machine.pending(), fingerprint);
  await machine.off();
  await machine.on({ medium: 'none' });
  t.equal(await machine.pending(), fingerprint, 'from its drive alone');
});

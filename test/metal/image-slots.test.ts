import { execFileSync } from 'node:child_process';
import { closeSync, copyFileSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { waitFor } from '../lab/harness.js';
import { bootLimitMs, ImageMachine, imageDir } from './image-machine.js';

/** Updates by two slots, on a whole machine: a version that is broken is left again by itself, one that is well stays. */

const mib = 1024 * 1024;
/** Where the boot drive has its parts: docs/image.md. */
const esp = { at: 2 * mib, size: 64 * mib };
const slotB = { at: (1 + 1 + 64 + 768) * mib, sizeMib: 768 };
const mark = '# GRUB Environment Block\n';

/** GRUB's note on the drive, changed in place while the machine is off. */
function grubenv(file: string, change: Record<string, string> = {}): Record<string, string> {
  const fd = openSync(file, 'r+');
  try {
    const bytes = Buffer.alloc(esp.size);
    readSync(fd, bytes, 0, esp.size, esp.at);
    // GRUB itself has these words in it, too; a file begins with a sector.
    let at = bytes.indexOf(mark);
    while (at >= 0 && at % 512 !== 0) at = bytes.indexOf(mark, at + 1);
    const text = bytes
      .subarray(at + mark.length, at + 1024)
      .toString('latin1')
      .replace(/#+$/, '');
    const lines = text.split('\n').filter((line) => line.includes('='));
    const vars = Object.fromEntries(
      lines.map((l) => [l.slice(0, l.indexOf('=')), l.slice(l.indexOf('=') + 1)]),
    );
    Object.assign(vars, change);
    const body = `${mark}${Object.entries(vars)
      .map(([k, v]) => `${k}=${v}\n`)
      .join('')}`;
    if (Object.keys(change).length > 0)
      writeSync(fd, Buffer.from(body.padEnd(1024, '#'), 'latin1'), 0, 1024, esp.at + at);
    return vars;
  } finally {
    closeSync(fd);
  }
}

/** Writes the other slot, as "slot write" does. */
function writeB(dir: string, drive: string, id: string, root: 'whole' | 'broken'): void {
  const files = path.join(dir, `files-${root}`);
  mkdirSync(files);
  for (const name of ['vmlinuz', 'initrd'])
    copyFileSync(path.join(imageDir(), 'net', name), path.join(files, name));
  copyFileSync(path.join(imageDir(), 'net/root.squashfs'), path.join(files, 'root.squashfs'));
  if (root === 'broken') execFileSync('truncate', ['-s', '1M', path.join(files, 'root.squashfs')]);
  const part = path.join(dir, 'slot.img');
  const size = `${slotB.sizeMib}M`;
  execFileSync('rm', ['-f', part]);
  execFileSync('mke2fs', [
    '-q',
    '-t',
    'ext4',
    '-L',
    `flotilla-b-${id}`,
    '-m',
    '0',
    '-O',
    '^has_journal',
    '-d',
    files,
    part,
    size,
  ]);
  execFileSync('dd', [
    `if=${part}`,
    `of=${drive}`,
    'bs=1M',
    `seek=${slotB.at / mib}`,
    'conv=notrunc,sparse',
    'status=none',
  ]);
  execFileSync('rm', ['-rf', part, files]);
}

await t.test('a broken version is left after two tries; a whole one stays', async (t) => {
  const dir = t.testdir();
  const drive = path.join(dir, 'drive.img');
  execFileSync('truncate', ['-s', '4G', drive]);
  const machine = new ImageMachine({ dir, firmware: 'bios', medium: 'cd', drives: [drive] });
  t.teardown(() => machine.off());
  await machine.on();
  const fingerprint = await machine.pending();
  await machine.off();
  const { drive: id = '', slot } = grubenv(drive);
  t.match(id, /^[0-9a-f]{5}$/);
  t.equal(slot, 'a');

  writeB(dir, drive, id, 'broken');
  grubenv(drive, { slot: 'a', try: 'b', tries: '2' });
  await machine.on({ medium: 'none' });
  t.equal(await machine.pending(), fingerprint, 'by itself, without a hand');
  const started = [...machine.console.matchAll(/Booting `Flotilla, slot (.)'/g)].map((m) => m[1]);
  t.same(started, ['b', 'b', 'a']);
  await machine.off();
  t.match(grubenv(drive), { slot: 'a', try: 'b', tries: '0' }, 'the failed one can be told');

  writeB(dir, drive, id, 'whole');
  grubenv(drive, { slot: 'a', try: 'b', tries: '2' });
  await machine.on({ medium: 'none' });
  t.equal(await machine.pending(), fingerprint);
  await machine.shows(/Booting `Flotilla, slot b'/);
  t.notMatch(machine.console, /Booting `Flotilla, slot a'/);
  await waitFor('slot b is the good one', () => grubenv(drive)['slot'] === 'b', { limitMs: bootLimitMs });
  t.match(grubenv(drive), { slot: 'b', try: '' });
});

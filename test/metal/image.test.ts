import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, openSync, writeSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { ImageMachine } from './image-machine.js';

/** The image on whole machines: by BIOS and by UEFI it becomes a node that waits, and takes no drive that is not its. */

async function sum(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const part of createReadStream(file)) hash.update(part as Buffer);
  return hash.digest('hex');
}

function drive(dir: string, name: string, size: string, data?: { text: string; at: number }): string {
  const file = path.join(dir, name);
  closeSync(openSync(file, 'w'));
  execFileSync('truncate', ['-s', size, file]);
  if (data !== undefined) {
    const fd = openSync(file, 'r+');
    writeSync(fd, data.text, data.at);
    closeSync(fd);
  }
  return file;
}

await t.test('BIOS, from CD: the blank drive becomes its own, the one with data is left alone', async (t) => {
  const dir = t.testdir();
  // The firmware starts from its first drive only.
  const blank = drive(dir, 'blank.img', '6G');
  // Smaller, so it would be the one; and without any signature that a tool would know.
  const data = drive(dir, 'data.img', '5G', { text: 'what a database wrote', at: 300 * 1024 });
  const before = await sum(data);
  const machine = new ImageMachine({ dir, firmware: 'bios', medium: 'cd', drives: [blank, data] });
  t.teardown(() => machine.off());
  await machine.on();
  const fingerprint = await machine.pending();
  t.match(await machine.health(), { state: 'pending', fingerprint });
  await machine.off();
  t.equal(await sum(data), before, 'not a byte of the other drive changed');

  await t.test('after a power loss, from its drive alone: the same node', async (t) => {
    await machine.on({ medium: 'none' });
    t.equal(await machine.pending(), fingerprint);
    t.match(machine.console, /Flotilla, slot a/);
  });
});

await t.test('UEFI, from a stick: power lost while it prepares its drive; then it waits', async (t) => {
  const dir = t.testdir();
  const machine = new ImageMachine({
    dir,
    firmware: 'uefi',
    medium: 'usb',
    drives: [drive(dir, 'blank.img', '4G')],
  });
  t.teardown(() => machine.off());
  await machine.on();
  await machine.shows(/prepares \/dev\/vda as the boot drive/);
  await machine.off();
  await machine.on();
  await machine.shows(/prepares \/dev\/vda as the boot drive/);
  const fingerprint = await machine.pending();
  t.match(await machine.health(), { state: 'pending', fingerprint });
  t.match(machine.console, /Flotilla .* from this medium/);
});

await t.test('no drive to be had: it says so, and is no node', async (t) => {
  const dir = t.testdir();
  const full = drive(dir, 'full.img', '4G', { text: 'data', at: 0 });
  const before = await sum(full);
  const machine = new ImageMachine({ dir, firmware: 'bios', medium: 'cd', drives: [full] });
  t.teardown(() => machine.off());
  await machine.on();
  await machine.shows(/This machine is no node: there is no blank drive/);
  await machine.off();
  t.equal(await sum(full), before);
});

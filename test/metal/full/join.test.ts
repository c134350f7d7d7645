import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import type { Op } from '../../../core/domain/op.js';
import { bareImage } from '../../lab/witness.js';
import { waitFor } from '../../lab/harness.js';
import { bootLimitMs, imageDir, type ImageMachine } from '../image-machine.js';
import { Rack } from '../rack.js';

/**
 * Blank machines become a cluster, by every way the image can be started; more are added while VMs run; one is updated. Power
 * goes in the middle of it. A step that has passed is not done again by the next run with the same image: its machines are only
 * switched on.
 */

const rack = new Rack('rackjoin');
t.teardown(() => rack.close());
await rack.open();
const { c } = rack;

let broken = false;
/** @param machines - that must be on, and nodes; the others are off */
async function step(
  name: string,
  machines: readonly string[],
  act: (t: Test) => Promise<void>,
): Promise<void> {
  await t.test(name, async (t) => {
    if (rack.isDone(name)) return void t.pass('in an earlier run');
    if (broken) return void t.fail('the step before failed');
    const began = Date.now();
    try {
      for (const [each, machine] of rack.machines) if (!machines.includes(each)) await machine.off();
      await rack.back(...machines);
      await rack.untilHere(...machines);
      const ready = Date.now();
      await act(t);
      t.comment(
        `${Math.round((Date.now() - ready) / 1000)} s, its machines on after ${Math.round((ready - began) / 1000)} s`,
      );
      if (t.passing()) rack.done(name);
    } catch (error) {
      for (const [each, machine] of rack.machines) t.comment(`${each}: ${machine.console.slice(-1_500)}`);
      throw error;
    } finally {
      broken = !rack.isDone(name);
    }
  });
}

const opEnd = async (op: Op): Promise<Op> => c.opEnd(op, bootLimitMs);

/** A VM goes on: the same boot of its guest counts further. */
async function goesOn(t: Test, id: string): Promise<void> {
  const before = [...rack.heard(id)].at(-1);
  if (before === undefined) throw new Error('it was never heard');
  await waitFor('it counts further', () => (rack.heard(id).get(before[0]) ?? 0) > before[1], {
    limitMs: bootLimitMs,
  });
  t.equal([...rack.heard(id).keys()].at(-1), before[0], 'in the same boot');
}

/** Waits until a machine is heard by multicast DNS. @returns the fingerprint that it says */
const heard = (name: string): Promise<string> =>
  waitFor(
    `${name} is heard`,
    async () => {
      const { body } = await c.get<{ items: { address: string; fingerprint: string }[] }>('pending');
      return body.items.find((p) => p.address === rack.address(name))?.fingerprint;
    },
    { limitMs: bootLimitMs, everyMs: 1_000 },
  );

await step('BIOS from CD, UEFI from a stick: heard, and admitted by their fingerprints', [], async (t) => {
  rack.note('firmware m1', 'bios');
  rack.note('firmware m2', 'uefi');
  const m1 = await rack.machine('m1', { firmware: 'bios', medium: 'cd' });
  const m2 = await rack.machine('m2', { firmware: 'uefi', medium: 'usb' });
  const began = Date.now();
  await Promise.all(
    [m1, m2].map(async (machine, i) => {
      const name = `m${i + 1}`;
      await machine.on();
      const fingerprint = await machine.pending();
      t.comment(`${name} waits ${Math.round((Date.now() - began) / 1000)} s after power-on`);
      t.equal(await heard(name), fingerprint, 'as on its console');
      const wrong = await waitFor(
        'it answers',
        async () => {
          const at = `pending/${rack.address(name)}/actions/admit`;
          const { status, body } = await c.call('POST', at, { fingerprint: '0'.repeat(64) });
          return status === 503 ? null : body;
        },
        { limitMs: bootLimitMs },
      );
      t.match(wrong, { code: 'wrong-certificate' });
      await rack.admit(name, fingerprint);
      await rack.untilHere(name);
      t.comment(`${name} is a node ${Math.round((Date.now() - began) / 1000)} s after power-on`);
    }),
  );
  await waitFor('three voters', async () => (await rack.nodes()).filter((n) => n.record.voter).length === 3, {
    limitMs: bootLimitMs,
    everyMs: 1_000,
  });
  rack.note('voters', 'm1 m2');
});

await step('a VM runs; m3 is added meanwhile, over the network, and carries one', ['m1'], async (t) => {
  await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/srv/local' });
  await rack.untilPool('m1');
  await c.must('POST', 'networks', { name: 'lan', bridge: 'fl0', uplink: await rack.guestCard('m1') });
  await c.image('bare', 'local', bareImage());
  const first = await rack.counts('first', 'm1');

  rack.note('firmware m3', 'bios');
  const m3 = await rack.machine('m3', { firmware: 'bios', medium: 'none', netboot: true });
  const onMs = Date.now();
  await m3.on();
  const fingerprint = await m3.pending();
  const s = (sinceMs: number): number => Math.round((Date.now() - sinceMs) / 1000);
  t.comment(`it waits ${s(onMs)} s after power-on`);
  t.same([...new Set(rack.served)], ['boot.ipxe', 'vmlinuz', 'initrd', 'root.squashfs']);
  await goesOn(t, first);
  const admittedMs = Date.now();
  await rack.admit('m3', fingerprint);
  t.comment(`admitted after ${s(admittedMs)} s`);
  await rack.untilHere('m3');
  t.comment(`heard and alive after ${s(admittedMs)} s`);
  await rack.untilPool('m3');
  const second = await rack.counts('second', 'm3');
  t.comment(`its first VM counts after ${s(admittedMs)} s`);
  t.comment(`the machine's own start: ${JSON.stringify(await rack.startTimes('m3'))}`);
  await goesOn(t, first);
  await goesOn(t, second);
  t.equal(rack.heard(first).size, 1, 'the first never restarted');
});

await step(
  'm4 joins by a token; power is lost as it prepares its drive, and as it joins',
  ['m1'],
  async (t) => {
    const { token } = await c.must<{ token: string }>('POST', 'tokens', {
      ...{ kind: 'join', name: 'rack', uses: 1, ttlS: 14_400 },
    });
    rack.netWords = `flotilla.join=${token}`;
    rack.note('firmware m4', 'bios');
    const m4 = await rack.machine('m4', { firmware: 'bios', medium: 'none', netboot: true });
    await m4.on();
    await m4.shows(/prepares \/dev\/vda as the boot drive/);
    await m4.off();
    await m4.on();
    await m4.shows(/prepares \/dev\/vda as the boot drive/);
    // In the moment in which the cluster has admitted it, and before it may know.
    await waitFor(
      'it is admitted',
      async () => (await rack.nodes()).some((n) => n.id === rack.nodeOf('m4')),
      { limitMs: bootLimitMs },
    );
    await m4.off();
    await m4.on();
    await rack.untilHere('m4');
    await m4.shows(/Node of the cluster/);
    t.match(m4.console, /Flotilla, slot a/, 'from its own drive by now');
    const tokens = await c.get<{ items: { name: string; usesLeft: number | null }[] }>('tokens');
    const rest = tokens.body.items.find((k) => k.name === 'rack')?.usesLeft;
    t.equal(rest, 0, 'one use, whatever was cut off');
    t.notOk(m4.console.includes(token.split('.').at(-2) ?? ''), 'the secret is on no screen');
  },
);

/** An image that is whole by its own word, and does not start: its root is none. */
function brokenImage(): string {
  const file = path.join(rack.dir, 'broken.iso');
  if (existsSync(file)) return file;
  const tree = path.join(rack.dir, 'broken');
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(path.join(tree, 'flotilla'), { recursive: true });
  for (const name of ['vmlinuz', 'initrd'])
    copyFileSync(path.join(imageDir(), 'net', name), path.join(tree, 'flotilla', name));
  const root = Buffer.alloc(1024 * 1024, 'no root');
  writeFileSync(path.join(tree, 'flotilla/root.squashfs'), root);
  const sha256 = createHash('sha256').update(root).digest('hex');
  writeFileSync(
    path.join(tree, 'flotilla/image.json'),
    `{ "version": "9", "label": "B", "root": "${sha256}" }\n`,
  );
  execFileSync('xorriso', ['-as', 'mkisofs', '-quiet', '-r', '-J', '-o', file, tree]);
  return file;
}

async function imported(name: string, file: string): Promise<void> {
  rack.files.set(`${name}.iso`, file);
  const { op } = await c.must<{ op: Op }>('POST', 'images', {
    ...{ name, pool: 'local', node: 'n1', format: 'iso', url: rack.urlOf(`${name}.iso`) },
    sha256: createHash('sha256').update(readFileSync(file)).digest('hex'),
  });
  const end = await opEnd(op);
  if (end.state !== 'done') throw new Error(`image ${name}: ${JSON.stringify(end.error)}`);
}

const started = (console: string): string[] =>
  [...console.matchAll(/Booting `Flotilla, slot (.)'/g)].map((m) => m[1] ?? '');

const update = async (image: string): Promise<Op> =>
  (await c.must<{ op: Op }>('POST', `nodes/${rack.nodeOf('m4')}/actions/update`, { image })).op;

await step(
  'a version that does not start is left again by itself, and the operation says so',
  ['m1', 'm4'],
  async (t) => {
    await imported('broken', brokenImage());
    const op = await update('broken');
    const m4 = rack.machines.get('m4');
    const end = await opEnd(op);
    t.match(end, { state: 'failed' });
    t.match(end.error?.message, /went back to slot a: b did not get well/);
    t.same(started(m4?.console ?? '').slice(-3), ['b', 'b', 'a']);
    await rack.untilHere('m4');
  },
);

await step(
  'power is lost while a new version is written: the update goes on by itself',
  ['m1', 'm4'],
  async (t) => {
    // Another one than they run, where METAL_NEXT_IMAGE names it; else the same in the other slot.
    await imported('next', process.env['METAL_NEXT_IMAGE'] ?? path.join(imageDir(), 'flotilla.iso'));
    const op = await update('next');
    await waitFor(
      'it writes',
      async () => /writes the other slot/.test((await c.get<Op>(`ops/${op.id}`)).body.step ?? ''),
      { limitMs: bootLimitMs },
    );
    const m4 = rack.machines.get('m4');
    await m4?.off();
    await m4?.on({ medium: 'none', netboot: false });
    await m4?.shows(/Node of the cluster/);
    t.same(started(m4?.console ?? ''), ['a'], 'a slot that is half written is not started');
    const end = await opEnd(op);
    t.match(end, { state: 'done', step: /from slot b/ }, JSON.stringify(end));
    t.same(started(m4?.console ?? '').slice(-1), ['b']);
    await rack.untilHere('m4');
  },
);

const fromDrive = { medium: 'none', netboot: false } as const;

await step('a removed node does not come back by itself', ['m1', 'm4'], async (t) => {
  const node = rack.nodeOf('m4');
  const revoked = (await rack.nodes()).find((n) => n.id === node)?.record.fingerprint;
  await c.must('PATCH', `nodes/${node}`, { desired: 'leaving' });
  await waitFor('it is removed', async () => (await c.call('DELETE', `nodes/${node}`)).status === 204, {
    limitMs: bootLimitMs,
    everyMs: 2_000,
  });
  rack.note('revoked', revoked ?? '');
  const m4 = rack.machines.get('m4');
  await m4?.shows(/removed from the cluster/);
  await m4?.off();
  await m4?.on(fromDrive);
  await m4?.shows(/removed from the cluster/);
  t.notOk((await rack.nodes()).some((n) => n.id === node));
});

await step('with a new key it may be a node again', ['m1'], async (t) => {
  const m4 = await rack.machine('m4', { firmware: 'bios', medium: 'none' });
  await m4.on(fromDrive);
  const [found] = await m4.shows(/removed from the cluster|PENDING: waits to be admitted/);
  // A run that was cut off may have gone so far.
  if (!found.startsWith('PENDING')) {
    m4.type('x');
    await m4.shows(/forget the cluster\? yes or no \[no\]: $/);
    m4.type('yes\n');
  }
  const fingerprint = await m4.pending();
  t.not(fingerprint, rack.fact('revoked'));
  await rack.admit('m4', fingerprint);
  await rack.untilHere('m4');
});

/** Gives a machine an address at its console; whether it keeps it is asked then. */
async function giveAddress(machine: ImageMachine, address: string): Promise<void> {
  machine.type('n');
  for (const [question, answer] of [
    [/card, or cards of a bond \[\w+\]: $/, ''],
    [/VLAN, 1 to 4094, or none \[none\]: $/, ''],
    [/address: dhcp, or like \S+ \[dhcp\]: $/, `${address}/24`],
    [/gateway, or none \[none\]: $/, ''],
    [/name server, or none \[none\]: $/, ''],
  ] as const) {
    await machine.shows(question);
    machine.type(`${answer}\n`);
  }
  await machine.shows(/keep them\? yes or no \[no\]: $/);
}

await step('its drive in another machine, with other cards, is the same node', ['m1'], async (t) => {
  const before = (await rack.nodes()).find((n) => n.id === rack.nodeOf('m3'))?.record;
  const m5 = await rack.machine('m5', { firmware: 'bios', medium: 'none', driveOf: 'm3' });
  await m5.on(fromDrive);
  await m5.shows(/FLOTILLA {2}node-120003/);
  await m5.shows(/> $/);
  await giveAddress(m5, rack.address('m3'));
  m5.type('yes\n');
  await m5.shows(/kept/);
  m5.type('\n');
  await rack.untilHere('m3');
  const after = (await rack.nodes()).find((n) => n.id === rack.nodeOf('m3'))?.record;
  t.equal(after?.fingerprint, before?.fingerprint);
  const { body } = await c.get<{ items: { id: string; name: string }[] }>('vms');
  const second = body.items.find((v) => v.name === 'second')?.id ?? '';
  await waitFor('its VM runs there again', () => rack.heard(second).size > 0, { limitMs: bootLimitMs });
});

await step('a network that cuts a node off is taken back by itself', ['m1'], async (t) => {
  const m1 = rack.machines.get('m1');
  if (m1 === undefined) throw new Error('there is no machine m1');
  await giveAddress(m1, '10.9.9.9');
  t.match(m1.console, /UP +10\.9\.9\.9\/24/i);
  // Nobody is there to say that it is right.
  await waitFor('the former network is back', () => rack.health('m1'), { limitMs: bootLimitMs });
  m1.type('yes\n');
  await m1.shows(/none is on trial any more: the former one is back/);
  m1.type('\n');
  await rack.untilHere('m1');
});

import { spawn, type ChildProcess } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeSync,
} from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { waitFor } from './harness.js';

/** The guest that is one program, alone in a QEMU as libvirt would start it: what it promises to drills. */

const { qemuOf } = (await import(path.resolve('scripts/lib/metal/qemu.mjs'))) as {
  qemuOf: (root: string) => [string, string[]];
};
const dir = mkdtempSync(path.join(tmpdir(), 'flotilla-bare-'));
const disk = path.join(dir, 'disk.img');
const uuid = '11223344-5566-7788-99aa-bbccddeeff00';
copyFileSync('build/images/bare.img', disk);
t.teardown(() => rmSync(dir, { recursive: true }));

/** A started machine and what it has said. */
class Machine {
  readonly #child: ChildProcess;
  #text = '';
  ended = false;

  constructor() {
    const [file, first] = qemuOf(realpathSync('build/root'));
    const hardware = ['-accel', 'tcg', '-cpu', 'qemu64', '-machine', 'q35', '-m', '64', '-nodefaults'];
    const ports = ['disk', 'card'].flatMap((id, n) => [
      '-device',
      `pcie-root-port,id=${id}-port,chassis=${n + 1}`,
    ]);
    const blocks = [
      ...['-drive', `file=${disk},format=raw,if=none,id=disk,cache=writethrough`],
      ...['-device', 'virtio-blk-pci,drive=disk,bus=disk-port,bootindex=1'],
    ];
    const cards = [
      ...[
        '-netdev',
        'user,id=card,restrict=on',
        '-object',
        `filter-dump,id=dump,netdev=card,file=${dir}/dump`,
      ],
      ...['-device', 'virtio-net-pci,netdev=card,bus=card-port,romfile='],
    ];
    const io = ['-display', 'none', '-serial', 'stdio', '-qmp', `unix:${dir}/qmp,server=on,wait=off`];
    const args = [...first, ...hardware, '-uuid', uuid, ...ports, ...blocks, ...cards, ...io];
    this.#child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#child.stdout?.setEncoding('latin1').on('data', (text: string) => (this.#text += text));
    this.#child.on('exit', () => (this.ended = true));
  }

  lines(kind: string): string[] {
    return this.#text.split('\r\n').filter((line) => line.startsWith(`${kind} `));
  }

  get said(): string {
    return this.#text;
  }

  async counts(times: number): Promise<void> {
    const before = this.lines('count').length;
    await waitFor(`${times} counts`, () => this.lines('count').length >= before + times);
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await waitFor('its end', () => this.ended);
  }
}

const numberOf = (line: string | undefined): number => Number(line?.split(' ')[3]);
const bootOf = (line: string | undefined): string => line?.split(' ')[2] ?? '';

let machine = new Machine();
t.teardown(() => machine.kill());

await t.test('it counts from one, and says so on the network too', async (t) => {
  await machine.counts(5);
  t.equal(numberOf(machine.lines('found')[0]), 0);
  t.same(machine.lines('count').slice(0, 5).map(numberOf), [1, 2, 3, 4, 5]);
  t.equal(machine.lines('found')[0]?.split(' ')[1], uuid);
  await waitFor('its words in the dump of the network', () =>
    readFileSync(path.join(dir, 'dump'), 'latin1').includes(machine.lines('count')[2] ?? '?'),
  );
});

await t.test('power lost: the next boot is another, and finds what was told', async (t) => {
  await machine.counts(3);
  await machine.kill();
  const before = machine;
  machine = new Machine();
  await machine.counts(3);
  const told = numberOf(before.lines('count').at(-1));
  const found = numberOf(machine.lines('found')[0]);
  t.ok(found === told || found === told + 1, `told ${told}, found ${found}`);
  t.equal(numberOf(machine.lines('count')[0]), found + 1);
  t.not(bootOf(machine.lines('found')[0]), bootOf(before.lines('found')[0]));
  t.same([...before.lines('bad'), ...machine.lines('bad')], []);
});

await t.test('a write that vanished from its disk is noticed at the next boot', async (t) => {
  await machine.counts(3);
  await machine.kill();
  const told = numberOf(machine.lines('count').at(-1));
  // The slot of the count before the last that was told: 64 slots of a sector, from sector 256 on.
  const fd = openSync(disk, 'r+');
  writeSync(fd, Buffer.alloc(512), 0, 512, (256 + ((told - 1) % 64)) * 512);
  closeSync(fd);
  machine = new Machine();
  await machine.counts(1);
  t.match(machine.lines('bad')[0], new RegExp(` ${told - 1} disk`));
});

await t.test('it goes when its power button is pressed', async (t) => {
  const socket = net.connect(path.join(dir, 'qmp'));
  socket.on('error', () => undefined);
  socket.write('{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}');
  await waitFor('its end', () => machine.ended);
  socket.destroy();
  t.match(machine.said, /BARE power button/);
});

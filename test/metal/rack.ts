import { spawn, type ChildProcess } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer as createHttpServer, type Server } from 'node:http';
import https from 'node:https';
import { connect, createServer, type Server as NetServer, type Socket } from 'node:net';
import path from 'node:path';
import type { Op } from '../../core/domain/op.js';
import type { NodeView } from '../../core/wire/rest-objects.js';
import { LabCluster } from '../lab/cluster.js';
import { freePort, run, waitFor } from '../lab/harness.js';
import { bootLimitMs, ImageMachine, imageDir, type MachineOptions } from './image-machine.js';

/** Places of the rack. Each has an address by DHCP: 10.0.2.15 and so on. */
const placesMax = 6;
/** What every machine is told: that it is emulated, and may be slow. */
const words = 'flotilla.timing=emulated';

export type Place = Pick<MachineOptions, 'firmware' | 'medium'> & {
  readonly netboot?: boolean;
  /** It has the drive of another place, which is off for good. */
  readonly driveOf?: string;
};

/** What is known of the rack besides what its drives hold, so that a later run goes on where this one was ended. */
interface Notes {
  readonly image: string;
  readonly done: readonly string[];
  readonly facts: Readonly<Record<string, string>>;
}

/** A frame of Ethernet as QEMU's stream sockets carry it: its length, then the frame. */
const framed = (frame: Buffer): Buffer => {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(frame.length);
  return Buffer.concat([head, frame]);
};

/** A request for an address, as a card that starts makes it: whoever asks first has the first. */
function dhcpDiscover(mac: Buffer): Buffer {
  const bootp = Buffer.alloc(244);
  bootp.set([1, 1, 6, 0, 0x46, 0x4c, 0x4f, mac[5] ?? 0]);
  bootp.set(mac, 28);
  bootp.set([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255], 236);
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(68, 0);
  udp.writeUInt16BE(67, 2);
  udp.writeUInt16BE(8 + bootp.length, 4);
  const ip = Buffer.alloc(20);
  ip.set([0x45, 0]);
  ip.writeUInt16BE(28 + bootp.length, 2);
  ip.set([64, 17], 8);
  ip.fill(255, 16, 20);
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += ip.readUInt16BE(i);
  ip.writeUInt16BE(~((sum & 0xffff) + (sum >> 16)) & 0xffff, 10);
  return Buffer.concat([Buffer.alloc(6, 255), mac, Buffer.from([8, 0]), ip, udp, bootp]);
}

/** A switch: each socket that is plugged in is one of its ports, and it learns who is behind which. */
class Switch {
  readonly #servers: NetServer[];
  readonly #ports = new Set<Socket>();
  readonly #behind = new Map<string, Socket>();
  readonly #hear: (frame: Buffer) => void;

  /**
   * @param picky - a second socket, for a port that hears only what is for all or for its own. QEMU's network of a user is such
   *   a one: it answers to whatever it sees, for whoever that was.
   */
  constructor(o: {
    readonly socket: string;
    readonly picky?: string;
    readonly hear?: (frame: Buffer) => void;
  }) {
    this.#hear = o.hear ?? (() => undefined);
    this.#servers = [
      createServer((port) => this.#plug(port, false)).listen(o.socket),
      ...(o.picky === undefined ? [] : [createServer((port) => this.#plug(port, true)).listen(o.picky)]),
    ];
  }

  stop(): void {
    for (const server of this.#servers) server.close();
    for (const port of this.#ports) port.destroy();
  }

  readonly #picky = new Set<Socket>();

  #plug(port: Socket, picky: boolean): void {
    this.#ports.add(port);
    if (picky) this.#picky.add(port);
    let rest: Buffer = Buffer.alloc(0);
    port.on('data', (bytes: Buffer) => {
      rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
      while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
        const end = 4 + rest.readUInt32BE(0);
        this.#carry(port, rest.subarray(0, end));
        rest = rest.subarray(end);
      }
    });
    port.on('error', () => undefined);
    port.on('close', () => {
      this.#ports.delete(port);
      for (const [mac, at] of this.#behind) if (at === port) this.#behind.delete(mac);
    });
  }

  /** @param sent - with the four bytes of its length */
  #carry(from: Socket, sent: Buffer): void {
    if (sent.length < 18) return;
    this.#hear(sent.subarray(4));
    this.#behind.set(sent.toString('hex', 10, 16), from);
    const forAll = ((sent[4] ?? 0) & 1) === 1;
    const known = forAll ? undefined : this.#behind.get(sent.toString('hex', 4, 10));
    for (const port of this.#ports)
      if (port !== from && (known === undefined ? forAll || !this.#picky.has(port) : port === known))
        port.write(sent);
  }
}

/**
 * Machines with firmware and blank drives, on one network that gives addresses, names a program to start from, and carries
 * multicast; the cards of guests are on another. The cluster is founded by a node in a container, as beside the machines of
 * `scripts/metal`: a voter that costs little.
 */
export class Rack {
  readonly dir: string;
  /** The cluster, by the controller in the container: n1, 10.0.2.1. */
  readonly c: LabCluster;
  readonly machines = new Map<string, ImageMachine>();
  readonly #ports = new Map<string, number>();
  readonly #switches: ChildProcess[] = [];
  readonly #nets: Switch[] = [];
  /** By VM's id: boots of its guest that were heard, and how far each has counted. */
  readonly #counted = new Map<string, Map<string, number>>();
  #http: Server | null = null;
  #httpPort = 0;
  /** Further words for machines that start over the network. */
  netWords = '';
  /** What was asked for by HTTP, in order. */
  readonly served: string[] = [];
  /** Further files that are served to machines, by name. */
  readonly files = new Map<string, string>();
  #notes: Notes;

  /** @param name - of the directory that keeps its drives */
  constructor(name: string) {
    this.dir = path.resolve('build/metal', name);
    this.c = new LabCluster({ id: name, net: '10.0.2', guestNet: '10.0.3', timing: 'emulated' });
    const image = path.basename(imageDir());
    this.#notes = { image, done: [], facts: {} };
    if (existsSync(this.#file)) {
      const kept = JSON.parse(readFileSync(this.#file, 'utf8')) as Notes;
      if (kept.image === image) this.#notes = kept;
    }
    if (this.#notes.facts['founded'] === undefined) rmSync(this.dir, { recursive: true, force: true });
    mkdirSync(this.dir, { recursive: true });
  }

  get #file(): string {
    return path.join(this.dir, 'rack.json');
  }

  isDone = (step: string): boolean => this.#notes.done.includes(step);

  done(step: string): void {
    this.#keep({ ...this.#notes, done: [...this.#notes.done, step] });
  }

  /** What a step found out and later ones need, also those of a later run. */
  fact(name: string): string {
    const value = this.#notes.facts[name];
    if (value === undefined) throw new Error(`nobody has noted ${name}`);
    return value;
  }

  note(name: string, value: string): void {
    this.#keep({ ...this.#notes, facts: { ...this.#notes.facts, [name]: value } });
  }

  #keep(notes: Notes): void {
    this.#notes = notes;
    writeFileSync(`${this.#file}.new`, JSON.stringify(notes));
    renameSync(`${this.#file}.new`, this.#file);
  }

  /** The image, with the words of this rack in its menu. */
  get iso(): string {
    return path.join(this.dir, 'image.iso');
  }

  async open(): Promise<void> {
    const { c } = this;
    await this.#makeIso();
    await this.#serve();
    const { founded, voters } = this.#notes.facts;
    if (founded === undefined) await c.lab.down();
    // With the ledger's majority off, the container has not started before machines have.
    const up = c.lab.up(1);
    up.catch(() => undefined);
    await this.#cables();
    if (voters !== undefined) await this.back(...voters.split(' '));
    await up;
    if (founded === undefined) await c.found();
    else await c.foundBefore();
    this.note('founded', 'yes');
    await c.controllerOn('n1');
    if (voters === undefined) await c.untilHere(1);
  }

  async #makeIso(): Promise<void> {
    if (existsSync(this.iso)) return;
    const config = path.join(this.dir, 'grub.cfg');
    const from = path.join(imageDir(), 'flotilla.iso');
    const took = await run('xorriso', [
      '-osirrox',
      'on',
      '-indev',
      from,
      '-extract',
      '/boot/grub/grub.cfg',
      config,
    ]);
    if (took.code !== 0) throw new Error(took.stderr);
    const text = readFileSync(config, 'utf8');
    writeFileSync(config, text.replaceAll('flotilla.state=auto', `flotilla.state=auto ${words}`));
    const made = await run('xorriso', [
      ...['-indev', from, '-outdev', `${this.iso}.new`, '-boot_image', 'any', 'replay'],
      ...['-map', config, '/boot/grub/grub.cfg'],
    ]);
    if (made.code !== 0) throw new Error(made.stderr);
    renameSync(`${this.iso}.new`, this.iso);
  }

  /** What `build/image/net` holds, and further files, by HTTP. */
  async #serve(): Promise<void> {
    const server = createHttpServer((req, res) => {
      const name = path.basename(req.url ?? '');
      this.served.push(name);
      const file = this.files.get(name) ?? path.join(imageDir(), 'net', name);
      if (!existsSync(file)) return void res.writeHead(404).end();
      if (name !== 'boot.ipxe') {
        const bytes = readFileSync(file);
        return void res.writeHead(200, { 'content-length': bytes.length }).end(bytes);
      }
      const text = readFileSync(file, 'utf8');
      res.end(text.replaceAll('flotilla.state=auto', `flotilla.state=auto ${words} ${this.netWords}`));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    this.#http = server;
    const at = server.address();
    this.#httpPort = at !== null && typeof at === 'object' ? at.port : 0;
  }

  /** Where machines find a file that is served to them. */
  urlOf = (name: string): string => `http://10.0.2.2:${this.#httpPort}/${name}`;

  mac = (place: number, card = 0): string => `52:54:00:12:0${card}:0${place}`;
  address = (name: string): string => `10.0.2.${14 + placeOf(name)}`;
  /** What the node calls itself: of its card's address. */
  nodeOf = (name: string): string => `node-12000${placeOf(name)}`;
  #socket = (name: 'nodes' | 'out' | 'guests'): string => path.join(this.dir, name);

  /** QEMU's network of a user gives addresses, and has ports of 127.0.0.1 that lead to the nodes. */
  async #cables(): Promise<void> {
    const places = Array.from({ length: placesMax }, (_, i) => i + 1);
    const forwards: string[] = [];
    for (const n of places) {
      const port = await freePort();
      this.#ports.set(`m${n}`, port);
      forwards.push(`hostfwd=tcp:127.0.0.1:${port}-${this.address(`m${n}`)}:7443`);
    }
    const bootfile = `bootfile=${this.urlOf('boot.ipxe')}`;
    for (const name of ['nodes', 'out', 'guests'] as const) rmSync(this.#socket(name), { force: true });
    this.#nets.push(
      new Switch({ socket: this.#socket('nodes'), picky: this.#socket('out') }),
      new Switch({ socket: this.#socket('guests'), hear: (frame) => this.#hear(frame) }),
    );
    const up = (name: 'nodes' | 'out') => [
      ...['-netdev', `stream,id=up,server=off,addr.type=unix,addr.path=${this.#socket(name)}`],
      ...['-netdev', 'hubport,id=hubup,hubid=1,netdev=up'],
    ];
    this.#bridge(
      [],
      ...['-netdev', ['user,id=out', bootfile, ...forwards].join(',')],
      ...['-netdev', 'hubport,id=hubout,hubid=1,netdev=out', ...up('out')],
    );
    const own = connect(this.#socket('nodes'));
    // Addresses are given in the order in which cards ask: so a place has the same one in every run.
    for (const n of places) {
      let given = false;
      own.once('data', () => (given = true));
      const ask = framed(dhcpDiscover(Buffer.from(this.mac(n).replaceAll(':', ''), 'hex')));
      await waitFor('an address', () => {
        if (!given) own.write(ask);
        return given;
      });
    }
    own.destroy();
    // A cable from there to the container's own bridge.
    const fabric = [`--net=/run/netns/${this.c.lab.id}-fab`];
    await waitFor(
      'the container’s network',
      async () => (await run('nsenter', [...fabric, 'true'])).code === 0,
    );
    this.#bridge(
      ['nsenter', ...fabric],
      ...['-netdev', 'tap,id=lab,ifname=rack0,script=no,downscript=no'],
      ...['-netdev', 'hubport,id=hublab,hubid=1,netdev=lab', ...up('nodes')],
    );
    await waitFor('the cable to the container', async () => {
      const r = await run('nsenter', [...fabric, 'ip', 'link', 'set', 'rack0', 'master', 'br0', 'up']);
      return r.code === 0;
    });
  }

  /** A QEMU without a machine joins two networks. @param before - words before the program's */
  #bridge(before: readonly string[], ...args: readonly string[]): void {
    const root = realpathSync(path.resolve('build/root'));
    const [file = '', ...words] = [
      ...[...before, path.join(root, 'usr/lib64/ld-linux-x86-64.so.2')],
      ...['--library-path', path.join(root, 'usr/lib/x86_64-linux-gnu')],
      ...[
        path.join(root, 'usr/bin/qemu-system-x86_64'),
        '-machine',
        'none',
        '-nodefaults',
        '-display',
        'none',
      ],
    ];
    this.#switches.push(spawn(file, [...words, ...args], { stdio: ['ignore', 'ignore', 'inherit'] }));
  }

  /** A machine in a place; its blank drive is made at the first time. */
  async machine(name: string, { driveOf = name, ...place }: Place): Promise<ImageMachine> {
    const known = this.machines.get(name);
    if (known !== undefined) return known;
    const dir = path.join(this.dir, name);
    const drive = path.join(this.dir, driveOf, 'drive.img');
    mkdirSync(dir, { recursive: true });
    if (!existsSync(drive)) await run('truncate', ['-s', '8G', drive]);
    const n = placeOf(name);
    const machine = new ImageMachine({
      ...place,
      dir,
      iso: this.iso,
      drives: [drive],
      // What is loaded over the network lies in memory, packed root and all.
      memoryMiB: place.netboot === true ? 1536 : 1024,
      cards: [
        { socket: this.#socket('nodes'), mac: this.mac(n) },
        { socket: this.#socket('guests'), mac: this.mac(n, 1) },
      ],
    });
    this.machines.set(name, machine);
    return machine;
  }

  /** Switches on what is not on, of the node it is by now: from its drive. */
  async back(...names: string[]): Promise<void> {
    for (const name of names) {
      const machine = await this.machine(name, {
        firmware: this.fact(`firmware ${name}`) as 'bios',
        medium: 'none',
      });
      if (!machine.isOn) await machine.on({ medium: 'none', netboot: false });
    }
    for (const name of names) await this.machines.get(name)?.shows(/Node of the cluster/);
  }

  async close(): Promise<void> {
    for (const machine of this.machines.values()) await machine.off();
    for (const each of this.#switches) each.kill('SIGKILL');
    for (const net of this.#nets) net.stop();
    this.#http?.close();
    await this.c.lab.must('down', '--keep');
  }

  /** The card of a machine that is in the guests' network, as its console calls it. */
  async guestCard(name: string): Promise<string> {
    const machine = this.machines.get(name);
    if (machine === undefined) throw new Error(`there is no machine ${name}`);
    machine.type('n');
    const [, card = ''] = await machine.shows(/cards: \S+ (\S+)/);
    await machine.shows(/card, or cards of a bond \[\S+\]: $/);
    // Given up: nothing is changed.
    machine.type('\u0004');
    return card;
  }

  /** Waits until the one pool is well on a machine's node. */
  async untilPool(name: string): Promise<void> {
    await waitFor(
      `the pool is well on ${name}`,
      async () => {
        const { body } = await this.c.get<{ items: { use: { node: string; ok: boolean }[] }[] }>('pools');
        return body.items[0]?.use.some((u) => u.node === this.nodeOf(name) && u.ok) ?? false;
      },
      { limitMs: bootLimitMs, everyMs: 1_000 },
    );
  }

  /** Makes a VM on a machine's node, from the image `bare`; back when its guest counts on its disk. @returns its id */
  async counts(vmName: string, name: string): Promise<string> {
    const { op, vm } = await this.c.must<{ op: Op; vm: { id: string } }>('POST', 'vms', {
      ...{ name: vmName, node: this.nodeOf(name), memoryMiB: 64, power: 'running' },
      disks: [{ name: 'root', pool: 'local', image: 'bare', mode: 'full' }],
      nics: [{ network: 'lan' }],
    });
    const end = await this.c.opEnd(op, bootLimitMs);
    if (end.state !== 'done') throw new Error(`VM ${vmName}: ${JSON.stringify(end.error)}`);
    await waitFor(`${vmName} counts`, () => this.heard(vm.id).size > 0, { limitMs: bootLimitMs });
    return vm.id;
  }

  /** How far each boot of a VM's guest has counted, on disk and flushed. */
  heard(vm: string): ReadonlyMap<string, number> {
    return this.#counted.get(vm) ?? new Map<string, number>();
  }

  /** The guest that counts says so by broadcast: "count VM BOOT N". */
  #hear(frame: Buffer): void {
    if (frame.length < 42 || frame.readUInt16BE(12) !== 0x0800 || frame.readUInt16BE(36) !== 8099) return;
    const [kind, vm = '', boot = '', n] = frame.subarray(42).toString('latin1').trim().split(' ');
    if (kind !== 'count') return;
    const boots = this.#counted.get(vm) ?? new Map<string, number>();
    boots.set(boot, Number.parseInt(n ?? '', 10));
    this.#counted.set(vm, boots);
  }

  /** What a machine's agent says of itself, whoever it is. */
  health(name: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const o = {
        host: '127.0.0.1',
        port: this.#ports.get(name) ?? 0,
        path: '/healthz',
        rejectUnauthorized: false,
      };
      const req = https.get({ ...o, agent: false, timeout: 60_000 }, (res) => {
        let text = '';
        res.setEncoding('utf8').on('data', (part: string) => (text += part));
        res.on('end', () => resolve(text));
      });
      req.on('timeout', () => req.destroy(new Error('no answer')));
      req.on('error', reject);
    });
  }

  async nodes(): Promise<NodeView[]> {
    return (await this.c.get<{ items: NodeView[] }>('nodes')).body.items;
  }

  /** Waits until the controller hears these machines' nodes, and the ledger holds their leases. */
  async untilHere(...names: string[]): Promise<void> {
    await waitFor(
      `${names.join(', ')} live`,
      async () => {
        const nodes = await this.nodes();
        const missing = names.filter((name) => {
          const node = nodes.find((n) => n.id === this.nodeOf(name));
          return node === undefined || !node.live || node.presence !== 'here';
        });
        if (missing.length > 0) throw new Error(`not ${missing.join(', ')}`);
        return true;
      },
      { limitMs: bootLimitMs, everyMs: 1_000 },
    );
  }

  /** Admits a machine that waits, by the fingerprint on its console. */
  async admit(name: string, fingerprint: string): Promise<void> {
    await waitFor(
      `${name} is admitted`,
      async () => {
        // A machine that is emulated may answer too late, also after it has joined.
        if ((await this.nodes()).some((n) => n.id === this.nodeOf(name))) return true;
        await this.c.must('POST', `pending/${this.address(name)}/actions/admit`, { fingerprint });
        return true;
      },
      { limitMs: bootLimitMs, everyMs: 1_000 },
    );
  }

  /** What the console's details say of the start: seconds of the kernel with its RAM disk, and of systemd's units. */
  async startTimes(name: string): Promise<{ kernelS: number; unitsS: number; upS: number }> {
    const machine = this.machines.get(name);
    if (machine === undefined) throw new Error(`there is no machine ${name}`);
    const seconds = (text: string): number => {
      const [, min = '0', s = '0'] = /^(?:(\d+)min )?([\d.]+)s$/.exec(text) ?? [];
      return Number(min) * 60 + Number(s);
    };
    return waitFor(
      'the end of its start',
      async () => {
        const before = machine.console.length;
        machine.type('d');
        await waitFor('its details', () => machine.console.slice(before).includes('press Enter'), {
          limitMs: bootLimitMs,
        });
        machine.type('\n');
        const said = machine.console.slice(before);
        const [, kernel, units] =
          /finished in (?:.* \+ )?((?:\d+min )?[\d.]+s) \(kernel\) .*?((?:\d+min )?[\d.]+s) \(userspace\)/.exec(
            said,
          ) ?? [];
        const [, up] = /up (\d+) s/.exec(said) ?? [];
        return kernel === undefined || units === undefined
          ? null
          : { kernelS: seconds(kernel), unitsS: seconds(units), upS: Number(up) };
      },
      { limitMs: bootLimitMs, everyMs: 2_000 },
    );
  }
}

const placeOf = (name: string): number => Number(name.slice(1));

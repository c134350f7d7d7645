import { execFileSync, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { QemuLockstep } from '../../agent/lockstep/lockstep.js';
import { LockstepHypervisor } from '../../agent/lockstep/lockstep-hypervisor.js';
import type { LockstepNode } from '../../agent/lockstep/machine.js';
import { LockstepMachines } from '../../agent/lockstep/machines.js';
import { makeCa, makeCsr, signNode, type Ca } from '../../agent/pki/certificates.js';
import { runTool } from '../../agent/pool/tool.js';
import { systemClock } from '../../agent/system.js';
import { Asker, servePort } from './client.js';
import { domainXml } from '../../agent/vm/domain-xml.js';

const build = path.resolve(import.meta.dirname, '../../..');
const root = realpathSync(path.join(build, 'root'));
const lockstepDir = path.join(root, 'usr/lib/flotilla/qemu-lockstep');
/** QEMU of the appliance with the appliance's libraries, whatever this machine has. */
const qemu = [
  path.join(root, 'lib64/ld-linux-x86-64.so.2'),
  '--library-path',
  path.join(root, 'usr/lib/x86_64-linux-gnu'),
  path.join(lockstepDir, 'qemu-system-x86_64'),
];
const diskBytes = 64 << 20;
/** The guest's address, and who asks it. */
export const guestAddress = '10.9.0.50';
const client = '10.9.0.254';
const bridge = 'br0';

/** Runs this file again in a network of its own, with a switch to which nodes and client are joined. Never comes back outside. */
export function inOwnNetwork(file: string): void {
  if (process.env['FLOTILLA_TEST_NET'] !== undefined) return;
  const net = `flt${randomUUID().slice(0, 6)}`;
  const ip = (...args: string[]): unknown =>
    execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const all = ['s', 'a', 'b'].map((x) => `${net}${x}`);
  const run = (): number | null => {
    for (const ns of all) ip('netns', 'add', ns);
    const [s = ''] = all;
    for (const ns of all) ip('-n', ns, 'link', 'add', bridge, 'type', 'bridge', 'forward_delay', '0');
    ['a', 'b'].forEach((x, i) => {
      const ns = `${net}${x}`;
      ip('-n', s, 'link', 'add', `to-${x}`, 'type', 'veth', 'peer', 'name', 'up0', 'netns', ns);
      ip('-n', s, 'link', 'set', `to-${x}`, 'up', 'master', bridge);
      ip('-n', ns, 'link', 'set', 'up0', 'up', 'master', bridge);
      ip('-n', ns, 'addr', 'add', `10.9.0.${i + 1}/24`, 'dev', bridge);
      ip('-n', ns, 'link', 'set', bridge, 'up');
      ip('-n', ns, 'link', 'set', 'lo', 'up');
    });
    ip('-n', s, 'addr', 'add', `${client}/24`, 'dev', bridge);
    ip('-n', s, 'link', 'set', bridge, 'up');
    const again = [
      'netns',
      'exec',
      s,
      process.execPath,
      '--enable-source-maps',
      file,
      ...process.argv.slice(2),
    ];
    const r = spawnSync('ip', again, { stdio: 'inherit', env: { ...process.env, FLOTILLA_TEST_NET: net } });
    return r.status;
  };
  let code: number | null;
  try {
    code = run();
  } finally {
    for (const ns of all) spawnSync('ip', ['netns', 'del', ns]);
  }
  process.exit(code ?? 1);
}

/** One of two nodes on this machine: a network and directories of its own, no systemd. */
export interface PairNode {
  readonly name: 'a' | 'b';
  readonly address: string;
  readonly lockstep: QemuLockstep;
  readonly hypervisor: LockstepHypervisor;
  readonly machines: LockstepMachines;
  /** As the node's agent begins anew. */
  again(): Promise<PairNode>;
  /** Its cable: drops all, no FIN. */
  cable(plugged: boolean): void;
  /** Where its copy of the disk lies. */
  readonly disk: string;
}

export interface Pair {
  readonly vm: string;
  readonly a: PairNode;
  readonly b: PairNode;
  /** The VM as the owner's agent would define it, on that node. */
  xml(at: PairNode, gen: number): string;
  end(): Promise<void>;
}

export async function makePair(o: { cpus?: number; memoryMiB?: number } = {}): Promise<Pair> {
  const net = process.env['FLOTILLA_TEST_NET'] ?? '';
  const dir = mkdtempSync(path.join(tmpdir(), 'lockstep-'));
  const vm = randomUUID();
  const caKey = path.join(dir, 'ca.key');
  makeKey(caKey);
  const ca = {
    cert: await makeCa({ clusterId: randomUUID(), keyFile: caKey, wallMs: Date.now() }),
    keyFile: caKey,
  };
  const nodes = await Promise.all((['a', 'b'] as const).map((name) => node(dir, net, name, ca)));
  const [a, b] = nodes as [PairNode, PairNode];
  const seed = makeSeed(dir);
  execFileSync('qemu-img', ['convert', '-O', 'raw', path.join(build, 'images/tiny.qcow2'), a.disk]);
  execFileSync('truncate', ['-s', String(diskBytes), a.disk]);
  return {
    vm,
    a,
    b,
    xml: (at, gen) =>
      domainXml({
        id: vm,
        name: 'pair',
        hardware: {
          cpus: o.cpus ?? 1,
          cpusMax: 4,
          memoryMiB: o.memoryMiB ?? 128,
          memoryMaxMiB: o.memoryMiB ?? 128,
          firmware: 'bios',
          boot: ['disk'],
          // Both nodes have their disk at the same path; here they share a file system.
          disks: [{ id: 'd1', bus: 'virtio', path: at.disk, format: 'raw' }],
          cdroms: [],
          nics: [{ id: 'n1', mac: '52:54:00:09:00:02', bridge, model: 'virtio' }],
          watchdog: false,
          cpuShares: 1024,
          cpuQuotaUs: null,
          seed,
        },
        accel: 'tcg',
        mark: { gen, generation: 1, startedMs: 1 },
        paths: { serial: '', vnc: '', serialLog: '' },
        inSlice: true,
        lockstep: true,
      }),
    async end() {
      // Agents may have begun anew meanwhile: the last of each knows what runs.
      try {
        for (const machines of begun.splice(0)) for (const m of machines.all()) await m.end('destroyed');
      } finally {
        spawnSync('losetup', ['--detach', b.disk]);
        rmSync(dir, { recursive: true, force: true });
      }
    },
  };
}

/** A disk that is no file, as volumes of a thin pool are none. */
function deviceOf(file: string): string {
  execFileSync('truncate', ['-s', String(diskBytes), file]);
  return execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8' }).trim();
}

export async function until(
  what: string,
  limitMs: number,
  done: () => Promise<boolean> | boolean,
): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!(await done())) {
    if (performance.now() > endMs) throw new Error(`it does not come: ${what}`);
    await sleep(5);
  }
}

/** The VM is started, on that node, and its guest answers. */
export async function startGuest(pair: Pair, at: PairNode, gen: number, limitMs: number): Promise<void> {
  await at.hypervisor.define(pair.xml(at, gen));
  await at.hypervisor.start(pair.vm);
  await until('the guest', limitMs, () =>
    Asker.open(guestAddress).then(
      (asker) => (asker.close(), true),
      () => false,
    ),
  );
}

/** Gives the VM on `owner` a twin on `twin`. @returns how long its guest stood still, ms */
export async function joinTwin(pair: Pair, owner: PairNode, twin: PairNode, gen: number): Promise<number> {
  const { vm } = pair;
  const door = await twin.lockstep.bear({ vm, xml: pair.xml(twin, gen - 1), gen, address: twin.address });
  const { pausedMs } = await owner.lockstep.join(vm, door, {
    progress: () => undefined,
    signal: new AbortController().signal,
  });
  return pausedMs;
}

/** {@link joinTwin}, and waits until the pair has made so many checkpoints. @returns how long its guest stood still, ms */
export async function protect(
  pair: Pair,
  o: { owner: PairNode; twin: PairNode; gen: number; checkpoints: number; limitMs: number },
): Promise<number> {
  const pausedMs = await joinTwin(pair, o.owner, o.twin, o.gen);
  const made = (): number => o.twin.machines.get(pair.vm)?.seen().checkpoints ?? 0;
  await until('checkpoints', o.limitMs, () => made() >= o.checkpoints);
  return pausedMs;
}

async function node(dir: string, net: string, name: 'a' | 'b', ca: Ca): Promise<PairNode> {
  const home = path.join(dir, name);
  const address = name === 'a' ? '10.9.0.1' : '10.9.0.2';
  const ns = `${net}${name}`;
  const tlsDir = path.join(home, 'tls');
  mkdirSync(tlsDir, { recursive: true, mode: 0o700 });
  const keyFile = path.join(tlsDir, 'server-key.pem');
  makeKey(keyFile);
  const csr = await makeCsr({ keyFile, commonName: name });
  const cert = await signNode(ca, csr, { node: name, addresses: [address] }, Date.now());
  for (const end of ['server', 'client']) writeFileSync(path.join(tlsDir, `${end}-cert.pem`), cert);
  copyFileSync(keyFile, path.join(tlsDir, 'client-key.pem'));
  writeFileSync(path.join(tlsDir, 'ca-cert.pem'), ca.cert);
  const log = (text: string, fields?: unknown): void =>
    void (
      process.env['FLOTILLA_TEST_LOG'] && console.error(`# ${name}: ${text} ${JSON.stringify(fields ?? {})}`)
    );
  const o: LockstepNode = {
    runtimeDir: path.join(home, 'run'),
    stateDir: path.join(home, 'state'),
    qemu: ['ip', 'netns', 'exec', ns, ...qemu],
    qemuImg: 'qemu-img',
    firmware: path.join(lockstepDir, 'share'),
    tlsDir,
    sockets: {
      paths: () => ({
        serial: path.join(home, 'serial.sock'),
        vnc: path.join(home, 'vnc.sock'),
        serialLog: path.join(home, 'serial.log'),
      }),
    },
    accel: () => Promise.resolve('tcg'),
    scopes: { put: () => Promise.resolve() },
    clock: systemClock,
    log: { info: log, warn: log, error: log },
    run: (file, args, more) => runTool(file, file === 'ip' ? ['-n', ns, ...args] : args, more),
  };
  const disk = path.join(home, 'disk.raw');
  return begin(o, name, address, name === 'a' ? disk : deviceOf(disk));
}

function makeKey(file: string): void {
  execFileSync('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', file]);
  chmodSync(file, 0o600);
}

/** The machines of all agents so far; those of one that was followed by another are nobody's. */
const begun: LockstepMachines[] = [];

async function begin(o: LockstepNode, name: 'a' | 'b', address: string, disk: string): Promise<PairNode> {
  const machines = new LockstepMachines(o);
  await machines.open();
  begun.push(machines);
  const hypervisor = new LockstepHypervisor(machines);
  hypervisor.open();
  return {
    name,
    address,
    disk,
    machines,
    hypervisor,
    lockstep: new QemuLockstep(machines),
    async again() {
      machines.close();
      hypervisor.close();
      return begin(o, name, address, disk);
    },
    cable: (plugged) => void execFileSync('ip', ['link', 'set', `to-${name}`, plugged ? 'up' : 'down']),
  };
}

function makeSeed(dir: string): string {
  const files = path.join(dir, 'seed');
  const iso = path.join(dir, 'seed.iso');
  mkdirSync(files);
  writeFileSync(path.join(files, 'meta-data'), 'local-hostname: pair\n');
  writeFileSync(path.join(files, 'user-data'), `#cloud-config\n# flotilla-serve: ${servePort}\n`);
  writeFileSync(path.join(files, 'network-config'), `addresses: [${guestAddress}/24]\n`);
  execFileSync('xorriso', ['-as', 'mkisofs', '-quiet', '-o', iso, '-V', 'CIDATA', '-J', '-r', files], {
    stdio: 'ignore',
  });
  return iso;
}

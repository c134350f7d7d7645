import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { resolve } from 'node:path';

/**
 * Where the appliance's root is. Another one can be named to try the client against another libvirt.
 */
const ROOT = resolve(process.env['FLOTILLA_ROOT'] ?? 'build/root');

/** Guest images of the build, seen inside as /srv/images. */
const IMAGES = resolve('build/images');

/**
 * Runs in fresh mount, PID, network, UTS and IPC namespaces: lays a memory-backed layer over the shared root,
 * gives it its own /dev without KVM, and keeps a libvirtd running as long as /run/hold is absent. Everything it
 * makes lives in the namespaces and is gone with their first process.
 */
const INIT = `
set -eu
ROOT=$1 NAME=$2 CONFIG=$3 QEMU_CONFIG=$4 IMAGES=$5
hostname "$NAME"
ip link set lo up
mount -t tmpfs -o size=1g tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$ROOT,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir -p dev/pts dev/shm dev/net run/lock run/libvirt
for d in null zero full random urandom tty net/tun; do : >dev/$d; mount --bind /dev/$d dev/$d; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mkdir -p srv/images
if [ -d "$IMAGES" ]; then mount --bind -o ro "$IMAGES" srv/images; fi
printf '%s\\n' "$NAME" >etc/hostname
printf '127.0.0.1 localhost %s\\n' "$NAME" >etc/hosts
printf '%s' "$CONFIG" >etc/libvirt/libvirtd.conf
printf '%s' "$QEMU_CONFIG" >etc/libvirt/qemu.conf
rm -rf etc/libvirt/qemu/networks/autostart etc/libvirt/qemu/autostart
exec chroot . /bin/bash -c '
  trap "" TERM INT
  while :; do
    if [ -e /run/hold ]; then sleep 0.05; continue; fi
    rm -f /run/libvirtd.pid
    libvirtd --listen >>/run/libvirtd.log 2>&1 || true
    sleep 0.05
  done'
`;

function daemonConfig(uuid: string): string {
  return `
listen_tls = 0
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
host_uuid = "${uuid}"
keepalive_interval = 1
keepalive_count = 5
max_workers = 40
max_client_requests = 5
log_outputs = "3:stderr"
`;
}

/** no cgroups: on a machine whose hierarchy has controllers libvirt would make some outside of our namespaces */
const QEMU_CONFIG = `
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
migration_address = "0.0.0.0"
shared_filesystems = [ "/tmp" ]
keepalive_interval = 2
keepalive_count = 3
`;

/** How long a condition may take. Starting libvirtd for the first time asks every emulator what it can. */
const WAIT_MS = 60_000;

/** Whether this machine can run these tests, else why not. */
export function cannotRun(): string | false {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'needs root on Linux';
  if (!existsSync(`${ROOT}/usr/sbin/libvirtd`))
    return `needs the appliance root in ${ROOT}: images/build makes it`;
  return false;
}

/** Waits for a condition, looking again and again. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | null | undefined | false> | T | null | undefined | false,
  limitMs = WAIT_MS,
): Promise<T> {
  const endsAt = Date.now() + limitMs;
  let last: unknown;
  while (Date.now() < endsAt) {
    try {
      const value = await look();
      if (value !== null && value !== undefined && value !== false) return value;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`not within ${limitMs} ms: ${what}`, { cause: last });
}

/** A libvirtd of the appliance, in namespaces of its own, for one test. */
export class LabDaemon {
  readonly name: string;
  /** first process in the namespaces, as the machine sees it */
  readonly pid: number;
  readonly hostUuid: string;
  readonly #unshare: ChildProcess;

  private constructor(name: string, pid: number, hostUuid: string, unshare: ChildProcess) {
    this.name = name;
    this.pid = pid;
    this.hostUuid = hostUuid;
    this.#unshare = unshare;
  }

  static async start(name: string): Promise<LabDaemon> {
    const hostUuid = randomUUID();
    const args = [
      // dies with this process, however that ends, and takes its namespaces along
      ...['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--net', '--uts', '--ipc'],
      ...['--fork', '--kill-child', '--propagation', 'private'],
      ...['bash', '-c', INIT, 'init', realpathSync(ROOT), name, daemonConfig(hostUuid), QEMU_CONFIG, IMAGES],
    ];
    const child = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    child.stdout.on('data', (chunk) => (said += String(chunk)));
    child.stderr.on('data', (chunk) => (said += String(chunk)));
    try {
      const pid = await eventually(`${name} has a first process`, () => {
        if (child.exitCode !== null) throw new Error(`init of ${name} ended: ${said}`);
        return childOf(child.pid ?? 0);
      });
      const daemon = new LabDaemon(name, pid, hostUuid, child);
      await eventually(`libvirtd of ${name} listens`, () => {
        if (child.exitCode !== null) throw new Error(`init of ${name} ended: ${said}`);
        return existsSync(daemon.socketPath) && existsSync(`/proc/${pid}/root/run/libvirtd.log`);
      });
      return daemon;
    } catch (error) {
      child.kill('SIGKILL');
      throw new Error(`no libvirtd: ${said}`, { cause: error });
    }
  }

  /** its file system as the machine sees it */
  get root(): string {
    return `/proc/${this.pid}/root`;
  }

  get socketPath(): string {
    return `${this.root}/run/libvirt/libvirt-sock`;
  }

  get log(): string {
    return readFileSync(`${this.root}/run/libvirtd.log`, 'utf8');
  }

  /** runs a command inside; its output, or an error with it */
  exec(command: string, ...args: readonly string[]): Promise<string> {
    const enter = ['-t', String(this.pid), '-m', '-u', '-i', '-n', '-p', '-r', 'env', '-C', '/', '-i'];
    const environment = ['PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'LC_ALL=C'];
    return new Promise((resolve, reject) => {
      execFile(
        'nsenter',
        [...enter, ...environment, command, ...args],
        { maxBuffer: 64 << 20, timeout: WAIT_MS, killSignal: 'SIGKILL' },
        (error, stdout, stderr) => {
          if (error)
            reject(new Error(`${command} ${args.join(' ')}: ${stderr || error.message}`, { cause: error }));
          else resolve(stdout.trimEnd());
        },
      );
    });
  }

  /** what libvirt's own client says: the oracle */
  virsh(...args: readonly string[]): Promise<string> {
    return this.exec('virsh', '-q', ...args);
  }

  /** libvirtd itself, as the machine sees it */
  daemonPid(): number | undefined {
    return childrenOf(this.pid).find((pid) => commandOf(pid) === 'libvirtd');
  }

  /** the QEMU of a domain, as the machine sees it */
  qemuPid(domain: string): number | undefined {
    const all = readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .map(Number);
    return all.find((pid) => {
      const line = commandLineOf(pid);
      return (
        line[0]?.includes('qemu-system') &&
        line.some((arg) => arg.startsWith(`guest=${domain},`)) &&
        sameNamespace(pid, this.pid)
      );
    });
  }

  signalDaemon(signal: NodeJS.Signals): void {
    const pid = this.daemonPid();
    if (pid === undefined) throw new Error(`no libvirtd runs on ${this.name}`);
    process.kill(pid, signal);
  }

  /** gives both an interface on a wire between them */
  async wire(other: LabDaemon, ownAddress: string, otherAddress: string): Promise<void> {
    const ends: readonly (readonly [LabDaemon, string])[] = [
      [this, ownAddress],
      [other, otherAddress],
    ];
    const [from, to] = [String(this.pid), String(other.pid)];
    await this.exec('ip', 'link', 'add', 'wire0', 'type', 'veth', 'peer', 'name', 'wire1');
    await new Promise<void>((resolve, reject) => {
      const args = ['-t', from, '-n', 'ip', 'link', 'set', 'wire1', 'netns', to, 'name', 'wire0'];
      execFile('nsenter', args, (error) =>
        error ? reject(new Error('no wire', { cause: error })) : resolve(),
      );
    });
    for (const [daemon, address] of ends) {
      await daemon.exec('ip', 'addr', 'add', `${address}/24`, 'dev', 'wire0');
      await daemon.exec('ip', 'link', 'set', 'wire0', 'up');
      const peer = daemon === this ? `${otherAddress} ${other.name}` : `${ownAddress} ${this.name}`;
      await daemon.exec('bash', '-c', `echo ${peer} >>/etc/hosts`);
    }
  }

  /** gives daemons certificates of one new authority, for encrypted migration between their QEMUs */
  static async certify(...nodes: readonly (readonly [LabDaemon, string])[]): Promise<void> {
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    const dir = '/etc/pki/qemu';
    const [first] = nodes;
    if (first === undefined) return;
    const [ca] = first;
    await ca.exec('mkdir', '-p', '/tmp/ca');
    await ca.exec(
      'openssl',
      'req',
      '-x509',
      ...key,
      '-subj',
      '/CN=lab',
      '-keyout',
      '/tmp/ca/key',
      '-out',
      '/tmp/ca/cert',
    );
    for (const [node, address] of nodes) {
      const names = `basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:${node.name},IP:${address}\n`;
      writeFileSync(`${ca.root}/tmp/ca/ext`, names);
      await ca.exec(
        'openssl',
        'req',
        ...key,
        '-subj',
        `/CN=${node.name}`,
        '-keyout',
        '/tmp/ca/nk',
        '-out',
        '/tmp/ca/nr',
      );
      const sign = ['-in', '/tmp/ca/nr', '-CA', '/tmp/ca/cert', '-CAkey', '/tmp/ca/key', '-CAcreateserial'];
      await ca.exec(
        'openssl',
        'x509',
        '-req',
        ...sign,
        '-days',
        '2',
        '-extfile',
        '/tmp/ca/ext',
        '-out',
        '/tmp/ca/nc',
      );
      await node.exec('mkdir', '-p', dir);
      const copy = (from: string, to: string): void => {
        const file = `${node.root}${dir}/${to}`;
        // The appliance has links there, to certificates that only a node of a cluster has.
        rmSync(file, { force: true });
        writeFileSync(file, readFileSync(`${ca.root}/tmp/ca/${from}`));
      };
      copy('cert', 'ca-cert.pem');
      for (const role of ['server', 'client']) {
        copy('nc', `${role}-cert.pem`);
        copy('nk', `${role}-key.pem`);
      }
    }
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#unshare.once('exit', resolve));
    if (this.#unshare.exitCode !== null || this.#unshare.signalCode !== null) return;
    process.kill(this.pid, 'SIGKILL');
    await ended;
  }
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

function childOf(pid: number): number | undefined {
  return childrenOf(pid)[0];
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return '';
  }
}

function commandLineOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

function sameNamespace(a: number, b: number): boolean {
  try {
    return readlinkSync(`/proc/${a}/ns/mnt`) === readlinkSync(`/proc/${b}/ns/mnt`);
  } catch {
    return false;
  }
}

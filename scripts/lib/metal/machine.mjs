// One emulated machine: power, console, commands inside.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { LabError, numberOf } from '../lab/config.mjs';
import { run, until } from '../lab/run.mjs';
import { kvmWorks, qemuOf } from './qemu.mjs';

const execProgram = fileURLToPath(new URL('exec.pl', import.meta.url));
const stateScript = fileURLToPath(new URL('state.sh', import.meta.url));
const execPort = '7';

/** systemd's words for "up". degraded: some unit failed; which ones matter is for the caller to say. */
const upStates = ['running', 'degraded'];

/**
 * no_timer_check: without KVM a busy machine fails the self test of the timer now and then. panic: a panic is a reboot.
 * mitigations: against neighbours that there are none of, and slow without KVM.
 */
const kernelWords =
  'console=ttyS0 net.ifnames=0 no_timer_check panic=5 mitigations=off quiet systemd.show_status=0';

/**
 * @param {import('../lab/config.mjs').LabConfig} config
 * @param {ReturnType<typeof import('../lab/fabric.mjs').fabricOf>} fabric
 * @param {import('./config.mjs').MetalConfig} metal
 */
export function machinesOf(config, fabric, metal) {
  const dirOf = (/** @type {string} */ node) => path.join(config.dir, node);
  const service = config.networks.find((each) => each.apart)?.net ?? '';

  /**
   * Process ids of this rig's machines. Found by their command lines, so that none is forgotten whatever was interrupted.
   *
   * @returns {Map<string, number>}
   */
  function processes() {
    const found = new Map();
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      const [, name] = /\0-name\0([a-z0-9]+-n\d+)\0/.exec(commandLine(pid)) ?? [];
      if (name?.startsWith(`${config.id}-n`)) found.set(name.slice(config.id.length + 1), Number(pid));
    }
    return found;
  }

  /** The machine's QEMU; null: it is off. @param {string} node */
  const pidOf = (node) => processes().get(node) ?? null;
  const isOn = (/** @type {string} */ node) => pidOf(node) !== null;
  const running = () => [...processes().keys()].sort((a, b) => numberOf(a) - numberOf(b));

  /** @param {string} node */
  async function disks(node) {
    const dir = dirOf(node);
    if (!existsSync(path.join(dir, 'state.img'))) {
      const made = path.join(dir, 'state.new');
      const words = [made, config.disk, node, config.net, service, config.storageNet, config.timing];
      await run(stateScript, [...words, String(config.watchdogSeconds), execProgram]);
      await run('mv', [made, path.join(dir, 'state.img')]);
    }
    for (let n = 1; n <= metal.drives; n++) {
      const file = path.join(dir, `drive${n}.img`);
      if (!existsSync(file)) await run('truncate', ['-s', metal.driveSize, file]);
    }
  }

  /** @param {string} node @param {string} accel */
  function qemuArgs(node, accel) {
    const dir = dirOf(node);
    const drive = (/** @type {string} */ id, /** @type {string} */ file, /** @type {string} */ more = '') => [
      '-drive',
      // The machine's page cache outlives the node: this is the loss of a node, not of its drives' own caches.
      `id=${id},file=${file},if=none,format=raw,cache=unsafe,discard=unmap${more}`,
      '-device',
      `virtio-blk-pci,drive=${id},serial=${id}`,
    ];
    const cards = fabric
      .cables(node)
      .flatMap(({ port, mac }) => [
        '-netdev',
        `tap,id=${port},ifname=${port},script=no,downscript=no`,
        '-device',
        `virtio-net-pci,netdev=${port},mac=${mac},romfile=`,
      ]);
    const drives = Array.from({ length: metal.drives }, (_, n) =>
      drive(`drive${n + 1}`, path.join(dir, `drive${n + 1}.img`)),
    );
    return [
      ...['-name', `${config.id}-${node}`, '-nodefaults', '-no-user-config', '-display', 'none'],
      ...['-machine', 'q35', '-accel', accel, '-cpu', accel === 'kvm' ? 'host' : metal.cpu],
      ...['-m', String(metal.memoryMiB), '-smp', String(metal.cpus)],
      ...['-kernel', path.join(metal.boot(), 'vmlinuz'), '-initrd', path.join(metal.boot(), 'initrd')],
      ...['-append', `${kernelWords} flotilla.root=/dev/vda flotilla.state=LABEL=flotilla-state`],
      ...drive('root', path.join(metal.boot(), 'root.squashfs'), ',readonly=on'),
      ...drive('state', path.join(dir, 'state.img')),
      ...drives.flat(),
      ...cards,
      ...['-fsdev', `local,id=shared,path=${path.join(config.dir, 'share')},security_model=none`],
      ...['-device', 'virtio-9p-pci,fsdev=shared,mount_tag=shared'],
      ...['-device', 'i6300esb', '-action', 'watchdog=reset'],
      ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
      ...[
        '-chardev',
        `socket,id=console,path=console.sock,server=on,wait=off,logfile=console.log,logappend=on`,
      ],
      ...['-serial', 'chardev:console', '-qmp', 'unix:qmp.sock,server=on,wait=off'],
    ];
  }

  /** Switches a machine on. @param {string} node */
  async function boot(node) {
    numberOf(node);
    if (isOn(node)) return;
    const dir = dirOf(node);
    mkdirSync(dir, { recursive: true });
    mkdirSync(path.join(config.dir, 'share'), { recursive: true });
    await disks(node);
    await fabric.plug(node, 'sockets');
    const accel = await accelerator();
    const [file, first] = qemuOf(config.root());
    const log = openSync(path.join(dir, 'qemu.log'), 'a');
    const [enter, within] = fabric.inside(file, ...first, ...qemuArgs(node, accel));
    // Short names of sockets: a path of one has at most 107 bytes.
    const child = spawn(enter, within, { cwd: dir, detached: true, stdio: ['ignore', log, log] });
    let ended = false;
    child.on('exit', () => (ended = true));
    child.unref();
    await until(() => ended || answers(path.join(dir, 'qmp.sock')), { limitMs: 20_000, everyMs: 50 });
    if (ended)
      throw new LabError(`${node} did not start`, readFileSync(path.join(dir, 'qemu.log'), 'utf8').trim());
  }

  /** Which accelerator QEMU has here: found out once per rig. */
  async function accelerator() {
    const kept = path.join(config.dir, 'accel');
    if (!existsSync(kept))
      writeFileSync(kept, (await kvmWorks(config.root())) ? 'kvm' : 'tcg,thread=multi,tb-size=256');
    return readFileSync(kept, 'utf8');
  }

  /**
   * Cuts a machine's power.
   *
   * @param {string} node
   * @returns when it fell silent, ms of the wall clock; null: it was off
   */
  async function power(node) {
    numberOf(node);
    const pid = pidOf(node);
    if (pid === null) return null;
    const atMs = Date.now();
    process.kill(pid, 'SIGKILL');
    if (!(await until(() => !isOn(node), { limitMs: 20_000, everyMs: 10 })))
      throw new LabError(`QEMU of ${node}, process ${pid}, does not die`);
    for (const name of ['console.sock', 'qmp.sock']) rmSync(path.join(dirOf(node), name), { force: true });
    return atMs;
  }

  /** A program and its arguments that run a command in a machine. @param {string} node @param {string[]} command */
  function inside(node, command) {
    if (!isOn(node)) throw new LabError(`${node} is off`, `run: scripts/metal boot ${node}`);
    return fabric.inside('perl', execProgram, 'call', `${service}.${numberOf(node)}`, execPort, ...command);
  }

  /** Waits until systemd in the machine has started everything. @param {string} node @param {number} [limitMs] */
  async function ready(node, limitMs = 600_000) {
    let state = '';
    const up = await until(
      async () => {
        if (!isOn(node))
          throw new LabError(`${node} is off`, `its console: ${path.join(dirOf(node), 'console.log')}`);
        const [file, args] = inside(node, ['systemctl', 'is-system-running']);
        const answer = await run(file, args, { allowFailure: true });
        state = answer.stdout.trim();
        return upStates.includes(state);
      },
      { limitMs, everyMs: 300 },
    );
    if (!up)
      throw new LabError(
        `${node} is ${state || 'silent'} after ${limitMs / 1000} s`,
        `run: scripts/metal console ${node}`,
      );
    return state;
  }

  return { isOn, pidOf, running, inside, boot, power, ready, dirOf };
}

/** Empty when the process has just ended. @param {string} pid */
function commandLine(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}

/** Whether somebody listens at a unix socket. @param {string} file */
function answers(file) {
  return new Promise((resolve) => {
    const socket = net.connect(path.relative(process.cwd(), file));
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

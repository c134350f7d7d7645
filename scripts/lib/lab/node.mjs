// One node: power on, power off as in a power cut, commands inside.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freeze, processesIn, reap } from './cgroup.mjs';
import { LabError, numberOf } from './config.mjs';
import { run, until } from './run.mjs';

const nodeScript = fileURLToPath(new URL('node.sh', import.meta.url));
const powerScript = fileURLToPath(new URL('power.sh', import.meta.url));
const watchdogScript = fileURLToPath(new URL('watchdog.sh', import.meta.url));
const labProgram = fileURLToPath(new URL('../../lab.mjs', import.meta.url));

/** systemd's words for "up". degraded: some unit failed; which ones matter is for the caller to say. */
const upStates = ['running', 'degraded'];

/**
 * @param {import('./config.mjs').LabConfig} config
 * @param {ReturnType<typeof import('./cgroup.mjs').cgroupOf>} cgroup
 * @param {ReturnType<typeof import('./fabric.mjs').fabricOf>} fabric
 */
export function nodesOf(config, cgroup, fabric) {
  /** @param {string} node */
  const isOn = (node) => processesIn(path.join(cgroup.node(node), 'payload/init.scope')).length > 0;

  /** Process id of the node's PID 1, as seen from outside. @param {string} node */
  function leader(node) {
    const pid = processesIn(path.join(cgroup.node(node), 'payload/init.scope'))[0];
    if (pid === undefined) throw new LabError(`${node} is off`, `run: scripts/lab boot ${node}`);
    return pid;
  }

  /**
   * A program and its arguments that run a command in a node. nsenter does not change cgroup, so the command first
   * puts itself into the node's group `exec`: freeze and kill then include it, as they should.
   *
   * @param {string} node @param {string[]} command
   */
  function inside(node, command) {
    const group = path.join(cgroup.node(node), 'exec');
    const pid = String(leader(node));
    mkdirSync(group, { recursive: true });
    // `env -C /` and not `nsenter -w`, which resolves in the wrong root (util-linux 2.38).
    const enter = ['nsenter', '-t', pid, '-m', '-u', '-i', '-n', '-p', '-C', '-r', 'env', '-C', '/', '-i'];
    const env = [
      'PATH=/usr/sbin:/usr/bin:/sbin:/bin',
      `TERM=${process.env.TERM ?? 'dumb'}`,
      'HOME=/root',
      'LANG=C.UTF-8',
    ];
    const join = 'echo $$ >"$1" && shift && exec "$@"';
    return ['/bin/sh', ['-c', join, 'sh', path.join(group, 'cgroup.procs'), ...enter, ...env, ...command]];
  }

  /** Boots a node and returns when its PID 1 runs. @param {string} node */
  async function boot(node) {
    numberOf(node);
    const dir = config.nodeDir(node);
    const group = cgroup.node(node);
    if (isOn(node)) return;
    if (!existsSync('/dev/net/tun'))
      throw new LabError('this machine has no /dev/net/tun', 'it is needed for VMs; run: modprobe tun');
    await reap(group); // what an interrupted run left
    for (const name of ['disk', 'merged', '../share']) mkdirSync(path.join(dir, name), { recursive: true });
    if (!existsSync(path.join(dir, 'watchdog'))) await run('mkfifo', [path.join(dir, 'watchdog')]);
    if (!existsSync(path.join(dir, 'uuid')))
      writeFileSync(path.join(dir, 'uuid'), randomUUID().replaceAll('-', ''));
    if (!existsSync(path.join(dir, 'disk.img'))) {
      await run('truncate', ['-s', config.disk, path.join(dir, 'disk.new')]);
      await run('mkfs.ext4', ['-q', '-F', path.join(dir, 'disk.new')]);
      await run('mv', [path.join(dir, 'disk.new'), path.join(dir, 'disk.img')]);
    }
    await fabric.plug(node, 'cables');
    mkdirSync(group, { recursive: true });
    const log = openSync(path.join(dir, 'console.log'), 'a');
    const args = [
      dir,
      node,
      config.root(),
      fabric.namespace(node),
      cgroup.relative(node),
      path.join(config.dir, 'share'),
      config.net,
      config.timing,
      config.kind === 'lab' ? config.storageNet : '',
    ];
    const command = ['unshare', '-m', '--propagation', 'private', nodeScript, ...args];
    const child = spawn(powerScript, [process.execPath, labProgram, node, ...command], {
      detached: true,
      stdio: ['ignore', log, log],
    });
    let failed = false;
    child.on('exit', () => (failed = true));
    child.unref();
    const started = await until(
      () => failed || processesIn(path.join(group, 'payload/init.scope')).length > 0,
      { limitMs: 20_000, everyMs: 20 },
    );
    if (started !== true || failed)
      throw new LabError(
        `${node} did not start`,
        `its console: ${path.join(dir, 'console.log')}\n${await consoleOf(node, 5)}`,
      );
    await startWatchdog(node);
    // Only now, because nspawn has moved itself into a leaf; and before libvirtd looks, which it does once per start.
    cgroup.enable(group);
  }

  /**
   * Cuts a node's power: it falls silent, its disk forgets whatever was not flushed, everything on it dies at once.
   *
   * @param {string} node
   * @returns when it fell silent, ms of the wall clock; null: it was off
   */
  async function power(node) {
    numberOf(node);
    const group = cgroup.node(node);
    await stopWatchdog(node);
    if (!existsSync(group)) return null;
    await fabric.unplug(node).catch(() => {}); // an interrupted `up` may have no cable yet
    const atMs = Date.now();
    await freeze(group); // nobody sees the errors that come now
    const supervisor = processesIn(path.join(group, 'supervisor'))[0];
    if (supervisor !== undefined) await forget(`/proc/${supervisor}/root${config.nodeDir(node)}/disk`);
    await reap(group);
    return atMs;
  }

  /** Waits until systemd in the node has started everything. @param {string} node @param {number} [limitMs] */
  async function ready(node, limitMs = 120_000) {
    let state = '';
    const up = await until(
      async () => {
        const [file, args] = inside(node, ['systemctl', 'is-system-running']);
        state = (await run(file, args, { allowFailure: true })).stdout.trim();
        return upStates.includes(state);
      },
      { limitMs, everyMs: 200 },
    );
    if (!up)
      throw new LabError(
        `${node} is ${state || 'silent'} after ${limitMs / 1000} s`,
        `run: scripts/lab console ${node}`,
      );
    return state;
  }

  /** The last lines of a node's console. @param {string} node @param {number} lines */
  async function consoleOf(node, lines) {
    const file = path.join(config.nodeDir(node), 'console.log');
    return existsSync(file)
      ? readFileSync(file, 'utf8')
          .split('\n')
          .slice(-lines - 1)
          .join('\n')
      : '';
  }

  const pipeOf = (node) => path.join(config.nodeDir(node), 'watchdog');
  const watchdogPid = (node) => path.join(config.nodeDir(node), 'watchdog.pid');

  /** Gives a node a watchdog that bites as the timing profile says, by itself. @param {string} node */
  async function startWatchdog(node) {
    await stopWatchdog(node);
    const log = openSync(path.join(config.nodeDir(node), 'console.log'), 'a');
    const bite = [process.execPath, labProgram, 'kill', node];
    const child = spawn(watchdogScript, [pipeOf(node), String(config.watchdogSeconds), ...bite], {
      detached: true,
      stdio: ['ignore', log, log],
    });
    child.on('error', (error) => process.stderr.write(`lab: ${node} has no watchdog: ${error.message}\n`));
    child.unref();
    if (child.pid !== undefined) writeFileSync(watchdogPid(node), `${child.pid}\n`);
  }

  /** @param {string} node */
  async function stopWatchdog(node) {
    const file = watchdogPid(node);
    if (!existsSync(file)) return;
    const pid = Number(readFileSync(file, 'utf8'));
    // A bite is this very process.
    if (pid !== process.pid && isWatchdog(pid, node)) {
      process.kill(pid, 'SIGKILL');
      await until(() => !isWatchdog(pid, node), { limitMs: 5000, everyMs: 10 });
    }
    rmSync(file, { force: true });
  }

  /** The process may have ended, and its number be another's by now. @param {number} pid @param {string} node */
  function isWatchdog(pid, node) {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(pipeOf(node));
    } catch {
      return false;
    }
  }

  /**
   * Another watchdog for a node, until it bites.
   *
   * @param {string} node @param {number} timeoutMs
   */
  async function watchdog(node, timeoutMs) {
    await stopWatchdog(node);
    await run(watchdogScript, [pipeOf(node), String(timeoutMs / 1000), 'true']);
    await power(node);
  }

  /** Removes what is left of a node on the disk. @param {string} node */
  function erase(node) {
    rmSync(config.nodeDir(node), { recursive: true, force: true });
  }

  return { isOn, leader, inside, boot, power, ready, watchdog, stopWatchdog, erase };
}

/**
 * Makes a file system drop all it has not written, and take no more: EXT4_IOC_SHUTDOWN without flushing the log.
 *
 * @param {string} mount
 */
async function forget(mount) {
  const script = '$v = pack("L", 2); open(F, "<", $ARGV[0]) && ioctl(F, 0x8004587D, $v) or die "$!\\n"';
  const { code, stderr } = await run('perl', ['-e', script, mount], { allowFailure: true });
  if (code !== 0) process.stderr.write(`lab: ${mount} may keep unwritten data: ${stderr}`);
}

// Ports of this machine that lead into the lab, each by a process of its own (forward.mjs).
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { LabError, numberOf } from './config.mjs';
import { until } from './run.mjs';

const script = fileURLToPath(new URL('forward.mjs', import.meta.url));

/**
 * @param {import('./config.mjs').LabConfig} config
 * @param {ReturnType<typeof import('./fabric.mjs').fabricOf>} fabric
 */
export function forwardsOf(config, fabric) {
  const dir = path.join(config.dir, 'forward');
  const pidOf = (/** @type {string} */ port) => Number(readFileSync(path.join(dir, `${port}.pid`), 'utf8'));

  /** Ports that lead somewhere, or did when their process lived. */
  function list() {
    if (!existsSync(dir)) return [];
    return readdirSync(dir)
      .filter((name) => name.endsWith('.pid'))
      .map((name) => name.slice(0, -4));
  }

  /** @param {string} port */
  const works = (port) => alive(pidOf(port));

  /** @param {string} port */
  async function stop(port) {
    const file = path.join(dir, `${port}.pid`);
    if (!existsSync(file)) return;
    const pid = pidOf(port);
    if (alive(pid)) process.kill(pid, 'SIGTERM');
    await until(() => !alive(pid), { limitMs: 5000, everyMs: 20 });
    rmSync(file, { force: true });
  }

  /** @param {string} port @param {string} target - NODE:PORT, ADDRESS:PORT or off */
  async function start(port, target) {
    if (!/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65535)
      throw new LabError(`'${port}' is no port`, `scripts/${config.kind} forward 8443 n1:8443`);
    await stop(port);
    if (target === 'off') return;
    fabric.require();
    const [, name, targetPort] = /^(n\d+|\d+\.\d+\.\d+\.\d+):(\d+)$/.exec(target) ?? [];
    if (!name || !targetPort) throw new LabError(`'${target}' is no target`, 'NODE:PORT or ADDRESS:PORT');
    const host = name.startsWith('n') ? `${config.net}.${numberOf(name)}` : name;
    mkdirSync(dir, { recursive: true });
    const log = openSync(path.join(dir, `${port}.log`), 'w');
    const child = spawn(
      process.execPath,
      [script, 'outer', dir, port, `/run/netns/${config.fabric}`, host, targetPort],
      { detached: true, stdio: ['ignore', log, log] },
    );
    let ended = false;
    child.on('exit', () => (ended = true));
    child.unref();
    await until(() => ended || existsSync(path.join(dir, `${port}.pid`)), { limitMs: 10_000, everyMs: 20 });
    if (ended)
      throw new LabError(
        `cannot forward 127.0.0.1:${port}`,
        readFileSync(path.join(dir, `${port}.log`), 'utf8').trim(),
      );
    console.log(`127.0.0.1:${port} leads to ${host}:${targetPort}`);
  }

  return { list, works, stop, start };
}

/** @param {number} pid */
function alive(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('forward.mjs');
  } catch {
    return false;
  }
}

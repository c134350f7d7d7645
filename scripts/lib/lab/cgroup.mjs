// The lab's place in cgroup v2: one group per lab, one per node in it. Freeze and kill act on whole nodes.
//
// libvirt ignores cgroups if the hierarchy it sees has no controller, and then guests sit in no machine.slice. So at
// least one controller must reach the nodes. Three kinds of machine:
// - hybrid: v1 holds nearly all controllers; what v2 has left (hugetlb) is switched on at its root, and off by `down`.
// - v2 with systemd as PID 1: systemd owns the tree, so it is asked for a delegated unit, and all happens below that.
// - v2 without systemd: the group at the mount's root is used like in hybrid.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { LabError } from './config.mjs';
import { run, until } from './run.mjs';

/** Those that libvirt and systemd use; the order is of no importance. */
const wanted = ['cpu', 'memory', 'io', 'pids', 'hugetlb'];

/** Where this machine mounts cgroup v2. */
function mountPoint() {
  for (const line of readFileSync('/proc/mounts', 'utf8').split('\n')) {
    const [, where, type] = line.split(' ');
    if (type === 'cgroup2' && where) return where;
  }
  throw new LabError('this machine mounts no cgroup v2', 'mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified');
}

/** @param {import('./config.mjs').LabConfig} config */
export function cgroupOf(config) {
  const mount = mountPoint();
  const systemd = mount === '/sys/fs/cgroup' && existsSync('/run/systemd/system');
  const unit = `flotilla-lab-${config.id}.service`;
  const parent = systemd ? path.join(mount, 'system.slice', unit) : mount;
  const lab = path.join(parent, config.id);
  // Shared by the labs of a checkout: the last one down takes the flags back.
  const marker = path.join(config.dir, '..', 'host-controllers');

  return {
    lab,
    /** @param {string} node */
    node: (node) => path.join(lab, node),
    /** The same as seen from a mount of the whole hierarchy. @param {string} node */
    relative: (node) => path.join('/', path.relative(mount, lab), node),

    /** Makes the lab's group, with controllers that its nodes can pass on. */
    async prepare() {
      if (systemd && !existsSync(parent)) {
        // The unit's own process sits in a leaf, because groups with processes cannot hand controllers down.
        await run('systemd-run', [
          '--quiet',
          '--collect',
          `--unit=${unit}`,
          '-p',
          'Delegate=yes',
          '-p',
          'KillMode=mixed',
          'sh',
          '-c',
          `mkdir ${parent}/unit && echo $$ >${parent}/unit/cgroup.procs && exec sleep infinity`,
        ]);
        await until(() => existsSync(path.join(parent, 'unit')), { limitMs: 5000, everyMs: 20 });
      }
      mkdirSync(lab, { recursive: true });
      const on = enable(parent);
      if (!systemd && on.length > 0) {
        const before = existsSync(marker) ? readFileSync(marker, 'utf8').trim().split(/\s+/) : [];
        writeFileSync(marker, `${[...new Set([...before, ...on])].join(' ')}\n`);
      }
      enable(lab);
    },

    enable,

    /** Removes the lab's group, and what was switched on for it outside. */
    async remove() {
      await reap(lab);
      if (systemd) await run('systemctl', ['stop', unit], { allowFailure: true });
      else if (existsSync(marker)) {
        for (const name of readFileSync(marker, 'utf8').trim().split(/\s+/))
          try {
            writeFileSync(path.join(parent, 'cgroup.subtree_control'), `-${name}`);
          } catch {
            return; // another lab still needs it: the kernel refuses, and its own `down` does it
          }
        rmSync(marker);
      }
    },

    /** Names of the nodes that have a group, which is: that are on. */
    running() {
      if (!existsSync(lab)) return [];
      return readdirSync(lab, { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && /^n\d+$/.test(entry.name))
        .map((entry) => entry.name)
        .sort((a, b) => Number(a.slice(1)) - Number(b.slice(1)));
    },
  };
}

/** Hands down the controllers that can be; gives those that were not before. @param {string} dir */
function enable(dir) {
  const control = path.join(dir, 'cgroup.subtree_control');
  const there = readFileSync(path.join(dir, 'cgroup.controllers'), 'utf8').trim().split(/\s+/);
  const already = readFileSync(control, 'utf8').trim().split(/\s+/);
  return wanted.filter((name) => {
    if (!there.includes(name) || already.includes(name)) return false;
    try {
      writeFileSync(control, `+${name}`);
      return true;
    } catch {
      return false; // busy (processes in a group that is not the real root): guests then get no group, all else works
    }
  });
}

/** Processes directly in a group. @param {string} dir @returns {number[]} */
export function processesIn(dir) {
  try {
    return readFileSync(path.join(dir, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** Stops every process of the group, in kernel, at once. @param {string} dir */
export async function freeze(dir) {
  writeFileSync(path.join(dir, 'cgroup.freeze'), '1');
  const events = path.join(dir, 'cgroup.events');
  const frozen = () => !existsSync(events) || /^frozen 1$/m.test(readFileSync(events, 'utf8'));
  return (await until(frozen, { limitMs: 3000, everyMs: 5 })) === true;
}

/** @param {string} dir */
export function thaw(dir) {
  writeFileSync(path.join(dir, 'cgroup.freeze'), '0');
}

/** Kills the group, frozen or not, and waits until nothing is left of it. @param {string} dir */
export async function reap(dir) {
  if (!existsSync(dir)) return;
  writeFileSync(path.join(dir, 'cgroup.kill'), '1');
  const gone = await until(() => removeTree(dir), { limitMs: 10_000, everyMs: 10 });
  if (!gone)
    throw new LabError(`cannot remove ${dir}`, `processes that do not die: ${processesIn(dir).join(' ')}`);
}

/** @param {string} dir */
function removeTree(dir) {
  try {
    for (const entry of readdirSync(dir, { withFileTypes: true }))
      if (entry.isDirectory()) removeTree(path.join(dir, entry.name));
    rmdirSync(dir);
  } catch {
    return !existsSync(dir);
  }
  return true;
}

// A rack in one machine: N nodes, each a complete systemd booted from the appliance root in a container, on their own
// bridges, with their own disk and power cord. Needs root, and no build: it runs from a bare checkout.
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { cgroupOf, freeze, thaw } from './lib/lab/cgroup.mjs';
import { configFrom, LabError, numberOf } from './lib/lab/config.mjs';
import { fabricOf } from './lib/lab/fabric.mjs';
import { nodesOf } from './lib/lab/node.mjs';
import { run, until } from './lib/lab/run.mjs';

const usage = `scripts/lab VERB …
  up N                      boot nodes n1 … nN (those already on stay) and wait for them
  down [--keep]             end everything; --keep: the nodes' disks stay for the next up
  boot NODE…                power on          kill NODE…        cut the power: unflushed data is lost
  exec NODE COMMAND…        run in a node     shell NODE        look around in it
  cut NODE [NODE]           cut its network (or between two)
  heal [NODE [NODE]]        undo that (or all)
  freeze NODE               stop its time     thaw NODE         and let it go on
  watchdog NODE SECONDS     bite when /dev/watchdog of the node is armed and not fed
  wait NODE…                until it is up    console NODE      follow its console
  forward PORT NODE:PORT    127.0.0.1:PORT leads to the node (or an address in the lab); PORT off ends it
  push                      new programs into running nodes, and restart what runs them
  nodes                     names of running nodes
  ps                        what is up        fab COMMAND…      run on the fabric, where all addresses are reachable
  nft ARGS…                 the fabric's traffic rules
LAB_ID, LAB_NET, LAB_GUEST_NET, LAB_DISK, LAB_ROOT: docs/lab.md`;

const config = configFrom(process.env);
const cgroup = cgroupOf(config);
const fabric = fabricOf(config);
const nodes = nodesOf(config, cgroup, fabric);

/** Runs something in the foreground, with this terminal, and ends with its exit code. */
async function foreground([file, args]) {
  const child = spawn(file, args, { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
  process.exitCode = await new Promise((resolve) =>
    child.on('close', (code, signal) => resolve(code ?? (signal ? 1 : 0))),
  );
}

async function bootAll(names) {
  fabric.require();
  await Promise.all(names.map((node) => nodes.boot(node)));
  for (const node of names) console.log(`${node} ${await nodes.ready(node)}`);
}

async function up(count) {
  const number = Number(count);
  if (!Number.isInteger(number) || number < 1 || number > 99)
    throw new LabError(`'${count}' is no number of nodes`, 'scripts/lab up 3');
  const root = config.root();
  if (cgroup.running().length > 0 && !existsSync(path.join(config.dir, 'root')))
    throw new LabError(
      `a lab '${config.id}' of another checkout runs on this machine`,
      'set LAB_ID to another name, or say "scripts/lab down" there',
    );
  mkdirSync(config.dir, { recursive: true });
  writeFileSync(path.join(config.dir, 'root'), `${root}\n`);
  await fabric.prepare();
  await cgroup.prepare();
  await bootAll(Array.from({ length: number }, (_, index) => `n${index + 1}`));
}

/** Idempotent, and right after any half-done `up`. */
async function down(keep) {
  for (const port of forwards()) await stopForward(port);
  await Promise.all(cgroup.running().map((node) => nodes.power(node)));
  // Of nodes that switched themselves off.
  const left = existsSync(config.dir) ? readdirSync(config.dir).filter((name) => /^n\d+$/.test(name)) : [];
  for (const node of left) await nodes.stopWatchdog(node);
  await cgroup.remove();
  await fabric.remove();
  if (keep !== '--keep') rmSync(config.dir, { recursive: true, force: true });
  else rmSync(path.join(config.dir, 'root'), { force: true });
  try {
    rmdirSync(path.dirname(config.dir)); // build/lab, if this was the last
  } catch {
    // another lab's files are in it
  }
}

const forwardDir = path.join(config.dir, 'forward');
const pidOf = (port) => Number(readFileSync(path.join(forwardDir, `${port}.pid`), 'utf8'));

function forwards() {
  if (!existsSync(forwardDir)) return [];
  return readdirSync(forwardDir)
    .filter((name) => name.endsWith('.pid'))
    .map((name) => name.slice(0, -4));
}

function alive(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('forward.mjs');
  } catch {
    return false;
  }
}

async function stopForward(port) {
  const file = path.join(forwardDir, `${port}.pid`);
  if (!existsSync(file)) return;
  const pid = pidOf(port);
  if (alive(pid)) process.kill(pid, 'SIGTERM');
  await until(() => !alive(pid), { limitMs: 5000, everyMs: 20 });
  rmSync(file, { force: true });
}

async function forward(port, target) {
  if (!/^\d+$/.test(port ?? '') || Number(port) < 1 || Number(port) > 65535)
    throw new LabError(`'${port}' is no port`, 'scripts/lab forward 8443 n1:8443');
  await stopForward(port);
  if (target === 'off') return;
  fabric.require();
  const [, name, targetPort] = /^(n\d+|\d+\.\d+\.\d+\.\d+):(\d+)$/.exec(target ?? '') ?? [];
  if (!name) throw new LabError(`'${target}' is no target`, 'NODE:PORT or ADDRESS:PORT');
  const host = name.startsWith('n') ? `${config.net}.${numberOf(name)}` : name;
  mkdirSync(forwardDir, { recursive: true });
  const log = openSync(path.join(forwardDir, `${port}.log`), 'w');
  const script = fileURLToPath(new URL('lib/lab/forward.mjs', import.meta.url));
  const child = spawn(
    process.execPath,
    [script, 'outer', forwardDir, port, `/run/netns/${config.fabric}`, host, targetPort],
    { detached: true, stdio: ['ignore', log, log] },
  );
  let ended = false;
  child.on('exit', () => (ended = true));
  child.unref();
  await until(() => ended || existsSync(path.join(forwardDir, `${port}.pid`)), {
    limitMs: 10_000,
    everyMs: 20,
  });
  if (ended)
    throw new LabError(
      `cannot forward 127.0.0.1:${port}`,
      readFileSync(path.join(forwardDir, `${port}.log`), 'utf8').trim(),
    );
  console.log(`127.0.0.1:${port} leads to ${host}:${targetPort}`);
}

/** The shared root must not change under running nodes, so new programs go into each node's own layer. */
async function push() {
  const dist = path.join(config.top, 'build/dist');
  const files = existsSync(dist) ? readdirSync(dist).filter((name) => /\.mjs$/.test(name)) : [];
  if (files.length === 0) throw new LabError('there are no programs to push', 'run: npm run build');
  const archive = path.join(config.dir, 'push.tar');
  await run('tar', ['-C', dist, '--owner=0', '--group=0', '--mode=644', '-cf', archive, ...files]);
  for (const node of cgroup.running()) {
    const merged = `/proc/${nodes.leader(node)}/root`;
    await run('tar', ['-C', `${merged}/usr/lib/flotilla`, '-xf', archive]);
    const [file, args] = nodes.inside(node, [
      'systemctl',
      'try-restart',
      'flotilla-keeper',
      'flotilla-agent',
      'flotilla-controller',
    ]);
    await run(file, args);
    console.log(`${node} has them`);
  }
  rmSync(archive);
}

async function ps() {
  for (const node of cgroup.running()) {
    const on = nodes.isOn(node) ? `on, pid ${nodes.leader(node)}` : 'off by itself';
    console.log(`${node} ${on}, ${config.net}.${numberOf(node)}`);
  }
  for (const port of forwards())
    console.log(`127.0.0.1:${port} ${alive(pidOf(port)) ? 'forwarded' : 'dead'}`);
}

const [verb, ...args] = process.argv.slice(2);
const first = args[0] ?? '';
const verbs = {
  up: () => up(first),
  down: () => down(first),
  boot: () => bootAll(args),
  kill: async () => {
    for (const node of args) {
      const atMs = await nodes.power(node);
      if (atMs !== null) console.log(`${node} lost its power at ${atMs}`);
    }
  },
  exec: () => foreground(nodes.inside(first, args.slice(1))),
  shell: () => foreground(nodes.inside(first, ['bash', '-l'])),
  cut: () => fabric.cut(first, args[1]),
  heal: () => fabric.heal(cgroup.running(), args[0], args[1]),
  freeze: async () => {
    if (!(await freeze(cgroup.node(first))))
      throw new LabError(`${first} does not freeze`, 'something in it hangs in the kernel');
  },
  thaw: () => thaw(cgroup.node(first)),
  watchdog: async () => {
    await nodes.watchdog(first, Number(args[1]) * 1000);
    console.log(`the watchdog bit ${first}`);
  },
  wait: async () => {
    for (const node of args) console.log(`${node} ${await nodes.ready(node)}`);
  },
  console: () => foreground(['tail', ['-n', '40', '-f', path.join(config.nodeDir(first), 'console.log')]]),
  forward: () => forward(args[0], args[1]),
  push,
  nodes: () => {
    for (const node of cgroup.running()) console.log(node);
  },
  ps,
  fab: () => {
    fabric.require();
    return foreground(fabric.inside(...args));
  },
  nft: async () => process.stdout.write((await fabric.nft(args)).stdout),
};

try {
  if (!Object.hasOwn(verbs, verb ?? '')) {
    console.error(usage);
    process.exitCode = 2;
  } else {
    if (process.getuid?.() !== 0)
      throw new LabError('the lab needs root: it makes namespaces and mounts', 'run it with sudo');
    await verbs[verb]();
  }
} catch (error) {
  if (!(error instanceof LabError)) throw error;
  console.error(`lab: ${error.message}${error.hint ? `\n     ${error.hint}` : ''}`);
  process.exitCode = 1;
}

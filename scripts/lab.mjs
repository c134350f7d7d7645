// A rack in one machine: N nodes, each a complete systemd booted from the appliance root in a container, on their own
// bridges, with their own disk and power cord. Needs root, and no build: it runs from a bare checkout.
import { existsSync, mkdirSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { freeze, thaw } from './lib/lab/cgroup.mjs';
import { LabError, numberOf } from './lib/lab/config.mjs';
import { forwardsOf } from './lib/lab/forwards.mjs';
import { packPrograms, restartPrograms } from './lib/lab/programs.mjs';
import { rackOf } from './lib/lab/rack.mjs';
import { foreground, report, run } from './lib/lab/run.mjs';
import { commonVerbs } from './lib/lab/verbs.mjs';

const usage = `scripts/lab VERB …
  up N                      boot nodes n1 … nN (those already on stay) and wait for them
  down [--keep]             end everything; --keep: the nodes' disks stay for the next up
  boot NODE…                power on          kill NODE…        cut the power: unflushed data is lost
  exec NODE COMMAND…        run in a node     shell NODE        look around in it
  cut NODE [NODE] [one-way] cut its network (or between two); one-way: only what the first sends is lost
  heal [NODE [NODE]]        undo that (or all)
  freeze NODE               stop its time     thaw NODE         and let it go on
  watchdog NODE SECONDS     bite when /dev/watchdog of the node is armed and not fed
  wait NODE…                until it is up    console NODE      follow its console
  forward PORT NODE:PORT    127.0.0.1:PORT leads to the node (or an address in the lab); PORT off ends it
  push                      new programs into running nodes, and restart what runs them
  nodes                     names of running nodes
  ps                        what is up        fab COMMAND…      run on the fabric, where all addresses are reachable
  nft ARGS…                 the fabric's traffic rules
LAB_ID, LAB_NET, LAB_GUEST_NET, LAB_STORAGE_NET, LAB_DISK, LAB_ROOT: docs/lab.md`;

const { config, cgroup, fabric, containers: nodes, rack } = rackOf(process.env, 'lab');
const forwards = forwardsOf(config, fabric);

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
  for (const port of forwards.list()) await forwards.stop(port);
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

/** The shared root must not change under running nodes, so new programs go into each node's own layer. */
async function push() {
  const archive = await packPrograms(config);
  for (const node of cgroup.running()) {
    const merged = `/proc/${nodes.leader(node)}/root`;
    await run('tar', ['-C', `${merged}/usr/lib/flotilla`, '-xf', archive]);
    await run(...nodes.inside(node, restartPrograms));
    console.log(`${node} has them`);
  }
  rmSync(archive);
}

async function ps() {
  for (const node of cgroup.running()) {
    const on = nodes.isOn(node) ? `on, pid ${nodes.leader(node)}` : 'off by itself';
    console.log(`${node} ${on}, ${config.net}.${numberOf(node)}`);
  }
  for (const port of forwards.list())
    console.log(`127.0.0.1:${port} ${forwards.works(port) ? 'forwarded' : 'dead'}`);
}

const [verb, ...args] = process.argv.slice(2);
const first = args[0] ?? '';
const verbs = {
  ...commonVerbs({ rack, config, fabric, forwards, args }),
  up: () => up(first),
  down: () => down(first),
  boot: () => bootAll(args),
  shell: () => foreground(nodes.inside(first, ['bash', '-l'])),
  freeze: async () => {
    if (!(await freeze(cgroup.node(first))))
      throw new LabError(`${first} does not freeze`, 'something in it hangs in the kernel');
  },
  thaw: () => thaw(cgroup.node(first)),
  watchdog: async () => {
    await nodes.watchdog(first, Number(args[1]) * 1000);
    console.log(`the watchdog bit ${first}`);
  },
  console: () => foreground(['tail', ['-n', '40', '-f', path.join(config.nodeDir(first), 'console.log')]]),
  push,
  ps,
};

await report('lab', usage, verbs, verb);

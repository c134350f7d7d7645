// A rack of emulated machines: N nodes with a kernel of their own, each booted from the packed appliance root, with drives,
// cards, a watchdog and a console. What the lab's containers lack: DRBD, LVM, watchdogs, kernels that crash.
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { LabError, numberOf } from './lib/lab/config.mjs';
import { forwardsOf } from './lib/lab/forwards.mjs';
import { packPrograms, restartPrograms } from './lib/lab/programs.mjs';
import { rackOf } from './lib/lab/rack.mjs';
import { report, run } from './lib/lab/run.mjs';
import { commonVerbs } from './lib/lab/verbs.mjs';

const usage = `scripts/metal VERB …
  up N [M]                  boot machines n1 … nN (those already on stay), and M more nodes in containers, as the lab's:
                            voters that cost little
  down [--keep]             end everything; --keep: the drives stay for the next up
  boot NODE…                power on          kill NODE…        cut the power
  exec NODE COMMAND…        run in a node, over a network of its own that no cut touches
  console NODE              its serial line, as root; Ctrl-] leaves it
  cut NODE [NODE] [NETWORK] [one-way]
                            cut its management network, or storage, or guests (or only between two);
                            one-way: only what the first sends is lost
  heal [NODE [NODE]] [NETWORK]
                            undo that (or all)
  freeze NODE               stop the whole machine's time
  thaw NODE                 and let it go on
  wait NODE…                until it is up
  forward PORT NODE:PORT    127.0.0.1:PORT leads to the node (or an address in the rig); PORT off ends it
  push                      new programs into running nodes, and restart what runs them
  nodes                     names of running nodes
  ps                        what is up        fab COMMAND…      run on the fabric, where all addresses are reachable
  nft ARGS…                 the fabric's traffic rules
LAB_ID, LAB_NET, METAL_MEMORY and others: docs/metal.md`;

const { config, metal, fabric, cgroup, machines, containers, kindOf, rack } = rackOf(process.env, 'metal');
const forwards = forwardsOf(config, fabric);

async function bootAll(names, more = []) {
  fabric.require();
  const began = Date.now();
  await Promise.all([
    ...names.map((node) => kindOf(node).boot(node)),
    ...more.map((node) => containers.boot(node)),
  ]);
  await Promise.all(
    [...names, ...more].map(async (node) => {
      const state = await rack.ready(node);
      console.log(`${node} ${state} after ${((Date.now() - began) / 1000).toFixed(1)} s`);
    }),
  );
}

async function up(count, more = '0') {
  const number = Number(count);
  const contained = Number(more);
  if (!Number.isInteger(number) || number < 1 || number > 9)
    throw new LabError(`'${count}' is no number of machines`, 'scripts/metal up 3');
  if (!Number.isInteger(contained) || contained < 0 || number + contained > 9)
    throw new LabError(`'${more}' is no number of containers`, 'scripts/metal up 2 1');
  const root = config.root();
  const boot = metal.boot();
  if (existsSync(`/run/netns/${config.fabric}`) && !existsSync(path.join(config.dir, 'root')))
    throw new LabError(
      `a lab '${config.id}' of another checkout runs on this machine`,
      'set LAB_ID to another name, or say "scripts/metal down" there',
    );
  mkdirSync(config.dir, { recursive: true });
  writeFileSync(path.join(config.dir, 'root'), `${root}\n`);
  writeFileSync(path.join(config.dir, 'boot'), `${boot}\n`);
  await fabric.prepare();
  if (contained > 0) await cgroup.prepare();
  const names = Array.from({ length: number + contained }, (_, index) => `n${index + 1}`);
  await bootAll(names.slice(0, number), names.slice(number));
}

/** Idempotent, and right after any half-done `up`. */
async function down(keep) {
  for (const port of forwards.list()) await forwards.stop(port);
  await Promise.all(rack.running().map((node) => rack.power(node)));
  await cgroup.remove();
  await fabric.remove();
  if (keep !== '--keep') rmSync(config.dir, { recursive: true, force: true });
  else for (const name of ['root', 'boot']) rmSync(path.join(config.dir, name), { force: true });
  try {
    rmdirSync(path.dirname(config.dir)); // build/metal, if this was the last
  } catch {
    // another rig's files are in it
  }
}

async function push() {
  const archive = await packPrograms(config);
  for (const node of rack.running()) {
    await run(...rack.inside(node, ['tar', '-C', '/usr/lib/flotilla', '-xf', '-']), {
      input: readFileSync(archive),
    });
    await run(...rack.inside(node, restartPrograms));
    console.log(`${node} has them`);
  }
  rmSync(archive);
}

/** The machine's serial line at this terminal. */
function console_(node) {
  if (!machines.isOn(node)) throw new LabError(`${node} is off`, `run: scripts/metal boot ${node}`);
  process.chdir(machines.dirOf(node));
  createReadStream('console.log', { start: Math.max(0, readFileSync('console.log').length - 2000) }).pipe(
    process.stdout,
  );
  const line = net.connect('console.sock');
  line.pipe(process.stdout);
  process.stdin.setRawMode?.(true);
  process.stdin.on('data', (bytes) => (bytes.includes(0x1d) ? process.exit(0) : line.write(bytes)));
  line.on('error', (error) => console.error(error.message));
  return new Promise((resolve) => line.on('close', () => resolve(process.exit(0))));
}

function ps() {
  for (const node of rack.running())
    console.log(
      `${node} on, pid ${machines.pidOf(node) ?? containers.leader(node)}, ${config.net}.${numberOf(node)}`,
    );
  for (const port of forwards.list())
    console.log(`127.0.0.1:${port} ${forwards.works(port) ? 'forwarded' : 'dead'}`);
}

const [verb, ...args] = process.argv.slice(2);
const first = args[0] ?? '';
const signal = (name) => {
  const pid = machines.pidOf(first);
  if (pid === null) throw new LabError(`${first} is off`, `run: scripts/metal boot ${first}`);
  process.kill(pid, name);
};
const verbs = {
  ...commonVerbs({ rack, config, fabric, forwards, args }),
  up: () => up(first, args[1]),
  down: () => down(first),
  boot: () => bootAll(args),
  console: () => console_(first),
  freeze: () => signal('SIGSTOP'),
  thaw: () => signal('SIGCONT'),
  push,
  ps,
};

await report('metal', usage, verbs, verb);

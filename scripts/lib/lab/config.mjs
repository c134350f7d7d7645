// What makes one lab different from another. Everything comes from the environment, so that tests and people can
// have a lab each, side by side.
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** A refusal: what, on which object, and the way out. Printed without a stack. */
export class LabError extends Error {
  /** @param {string} message @param {string} [hint] @param {unknown} [cause] */
  constructor(message, hint, cause) {
    super(message, { cause });
    this.hint = hint;
  }
}

const top = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');
const build = process.env.FLOTILLA_BUILD ?? path.join(top, 'build');

/** As `watchdogMs` of core/domain/timing.ts, which needs a build. */
const watchdogSeconds = { lab: 20, production: 5, emulated: 45 };

/**
 * @param {NodeJS.ProcessEnv} env
 * @param {'lab' | 'metal'} [kind] - nodes in containers, or emulated machines
 */
export function configFrom(env, kind = 'lab') {
  const id = env.LAB_ID ?? { lab: 'flotilla', metal: 'metal' }[kind];
  if (!/^[a-z][a-z0-9]{0,19}$/.test(id))
    throw new LabError(
      `lab id '${id}' is not usable`,
      'LAB_ID: a letter, then at most 19 letters or digits, lower case',
    );
  const net = prefix('LAB_NET', env.LAB_NET ?? '10.79.0');
  const guestNet = prefix('LAB_GUEST_NET', env.LAB_GUEST_NET ?? '10.79.100');
  if (net === guestNet)
    throw new LabError(`lab ${id}: nodes and guests share ${net}.0/24`, 'set LAB_GUEST_NET');
  const timing = env.LAB_TIMING ?? 'lab';
  if (!Object.hasOwn(watchdogSeconds, timing))
    throw new LabError(
      `LAB_TIMING='${timing}' is no timing profile`,
      Object.keys(watchdogSeconds).join(', '),
    );
  const dir = path.join(build, kind, id);
  return {
    kind,
    build,
    /** Owns cgroup ID and the network namespaces ID-*: choose it unlike anything else on the machine. */
    id,
    /** First three numbers of the nodes' addresses; node nK is .K, the fabric itself .254. */
    net,
    /** The same of the guests' network: eth1 of each node, the fabric .254. */
    guestNet,
    networks: networksOf(kind, net, guestNet, env),
    /** The same of the storage network; empty: the lab has none. */
    get storageNet() {
      return this.networks.find((each) => each.name === 'storage')?.net ?? '';
    },
    /** Timing profile of the nodes, and after which silence their watchdogs bite. */
    timing,
    watchdogSeconds: watchdogSeconds[timing],
    top,
    dir,
    /** A node's own disk, sparse. */
    disk: env.LAB_DISK ?? '8G',
    fabric: `${id}-fab`,
    /** The root all nodes of this lab share. Kept from the first `up` on: changing it under nodes is undefined. */
    root() {
      const kept = path.join(dir, 'root');
      if (existsSync(kept)) return readFileSync(kept, 'utf8').trim();
      const root = env.LAB_ROOT ?? path.join(build, 'root');
      if (!existsSync(root)) throw new LabError('there is no appliance root', 'run: images/build root');
      return realpathSync(root);
    },
    /** @param {string} node */
    nodeDir(node) {
      return path.join(dir, node);
    },
  };
}

/** @typedef {ReturnType<typeof configFrom>} LabConfig */

/**
 * The networks of a node's cards eth0, eth1 and so on. `port`: letter of its port on the bridge; `apart`: nodes do not
 * see each other on it.
 *
 * @param {'lab' | 'metal'} kind @param {string} net @param {string} guestNet @param {NodeJS.ProcessEnv} env
 */
function networksOf(kind, net, guestNet, env) {
  const lab = [
    { name: 'management', bridge: 'br0', port: 'p', net, apart: false },
    { name: 'guests', bridge: 'br1', port: 'q', net: guestNet, apart: false },
  ];
  const given = env.LAB_STORAGE_NET ?? { lab: '', metal: '10.79.200' }[kind];
  const storageNet = given === '' ? '' : prefix('LAB_STORAGE_NET', given);
  const storage = { name: 'storage', bridge: 'br2', port: 's', net: storageNet, apart: false };
  if (kind === 'lab') return storageNet === '' ? lab : [...lab, storage];
  return [
    ...lab,
    storage,
    // For `exec`, which no cut may touch.
    { name: 'service', bridge: 'br3', port: 'x', net: '192.0.2', apart: true },
  ];
}

/** @param {string} name @param {string} value */
function prefix(name, value) {
  const numbers = value.split('.').map(Number);
  if (numbers.length !== 3 || !numbers.every((n) => Number.isInteger(n) && n >= 0 && n < 256))
    throw new LabError(
      `${name}='${value}' is not a /24 network`,
      `give its first three numbers, like ${name}=10.79.0`,
    );
  return value;
}

/** n1 to n99: the number is the last byte of the address. @param {string} node */
export function numberOf(node) {
  const number = /^n([1-9][0-9]?)$/.exec(node)?.[1];
  if (number === undefined) throw new LabError(`'${node}' is no node`, 'nodes are called n1, n2 … n99');
  return Number(number);
}

/**
 * What `cut` and `heal` were told: up to two nodes, a network's name, `one-way`.
 *
 * @param {LabConfig} config @param {string[]} args
 */
export function cutWords(config, args) {
  const names = args.filter((word) => /^n\d+$/.test(word));
  const network = args.find((word) => config.networks.some((each) => each.name === word));
  const rest = args.filter((word) => !names.includes(word) && word !== network && word !== 'one-way');
  if (rest.length > 0 || names.length > 2)
    throw new LabError(`'${args.join(' ')}' is not understood`, 'NODE, or two, then a network, then one-way');
  return { names, options: { ...(network ? { network } : {}), oneWay: args.includes('one-way') } };
}

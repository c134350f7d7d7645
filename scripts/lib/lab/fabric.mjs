// The cables: a bridge per network in a network namespace of their own, so nothing of it is on the machine's own network.
// br0 carries the nodes (eth0), br1 the guests (eth1), br2 storage (eth2) where there is such a network. A node in a container
// has a namespace of its own; that and the cables outlive its power loss, with the same MAC and address, as in a rack.
import { existsSync } from 'node:fs';
import { LabError, numberOf } from './config.mjs';
import { run } from './run.mjs';

/** nft: drops what is on the lists. `iifname . oifname` needs no optional kernel part. */
const cutter = `table bridge lab {
  set cut { type ifname . ifname; }
  set mute { type ifname; }
  chain cutter { type filter hook forward priority 0; iifname . oifname @cut drop; iifname @mute drop; }
  chain near { type filter hook input priority 0; iifname @mute drop; }
}`;

/** @param {import('./config.mjs').LabConfig} config */
export function fabricOf(config) {
  const { id, fabric, networks } = config;
  // `ip netns exec` mounts another /sys, in which the cgroup tree is hidden: always nsenter.
  const inside = (/** @type {string[]} */ ...args) => ['nsenter', [`--net=/run/netns/${fabric}`, ...args]];
  const ip = (/** @type {string[]} */ ...args) => run('ip', ['-n', fabric, ...args]);
  const nft = (/** @type {string[]} */ args, /** @type {string} */ input = '') => {
    const [file, words] = inside('chroot', config.root(), 'nft', ...args);
    return run(file, words, { input });
  };
  const bridge = (/** @type {string[]} */ ...args) => run(...inside('bridge', ...args));
  const link = (/** @type {string} */ port, /** @type {string} */ state) =>
    bridge('link', 'set', 'dev', port, 'state', state);
  const portOf = (/** @type {string} */ node, /** @type {string} */ network) => {
    const found = networks.find((each) => each.name === network);
    if (!found)
      throw new LabError(
        `there is no network '${network}'`,
        `the networks are: ${networks.map((each) => each.name).join(', ')}`,
      );
    numberOf(node);
    return `${found.port}-${node}`;
  };

  /** A namespace of the node's own, and a cable from it into each network. @param {string} node */
  async function layCables(node) {
    const own = `${id}-${node}`;
    if (existsSync(`/run/netns/${own}`)) return;
    await run('ip', ['netns', 'add', own]);
    await run('ip', ['-n', own, 'link', 'set', 'lo', 'up']);
    for (const { device, port, mac, network } of cables(node)) {
      const near = ['link', 'add', device, 'netns', own, 'address', mac, 'type', 'veth'];
      await run('ip', [...near, 'peer', 'name', port, 'netns', fabric]);
      await ip('link', 'set', port, 'master', network.bridge);
      await run('ip', ['-n', own, 'link', 'set', device, 'up']);
    }
    for (const { device, network } of cables(node))
      if (network.net === config.net || (config.kind === 'lab' && network.net === config.storageNet))
        await run('ip', ['-n', own, 'addr', 'add', `${network.net}.${numberOf(node)}/24`, 'dev', device]);
  }

  /** Sockets that an emulated machine's cards are plugged into. @param {string} node */
  async function laySockets(node) {
    for (const { port, network } of cables(node)) {
      if ((await run(...inside('ip', 'link', 'show', port), { allowFailure: true })).code === 0) continue;
      await ip('tuntap', 'add', port, 'mode', 'tap');
      await ip('link', 'set', port, 'master', network.bridge);
      if (network.apart) await bridge('link', 'set', 'dev', port, 'isolated', 'on');
    }
  }

  /** @param {string} node */
  function cables(node) {
    const last = numberOf(node).toString(16).padStart(2, '0');
    return networks.map((network, n) => ({
      network,
      device: `eth${n}`,
      port: `${network.port}-${node}`,
      mac: `02:79:0${n}:00:00:${last}`,
    }));
  }

  return {
    inside,
    cables,
    /** @param {string} node */
    namespace: (node) => `/run/netns/${id}-${node}`,

    async prepare() {
      if (existsSync(`/run/netns/${fabric}`)) return;
      await run('ip', ['netns', 'add', fabric]);
      await ip('link', 'set', 'lo', 'up');
      for (const { bridge: name, net } of networks) {
        await ip('link', 'add', name, 'type', 'bridge', 'mcast_snooping', '0');
        await ip('addr', 'add', `${net}.254/24`, 'dev', name);
        await ip('link', 'set', name, 'up');
      }
      await nft(['-f', '-'], cutter);
    },

    /**
     * Plugs a node in: makes its cables, or only raises them.
     *
     * @param {string} node @param {'cables' | 'sockets'} how - of a container, or for an emulated machine's cards
     */
    async plug(node, how) {
      await (how === 'sockets' ? laySockets(node) : layCables(node));
      for (const { port } of cables(node)) await ip('link', 'set', port, 'up');
    },

    /** Silence at once: no FIN, no RST leaves the node. @param {string} node */
    async unplug(node) {
      for (const { port } of cables(node)) await ip('link', 'set', port, 'down');
    },

    /**
     * Cuts a network: of one node from all others, or between two. The node still sees its link, as with a broken
     * switch. The other networks stay.
     *
     * @param {string} a @param {string} [b] @param {{network?: string, oneWay?: boolean}} [options] - oneWay: only what a
     * sends is lost
     */
    async cut(a, b, { network = 'management', oneWay = false } = {}) {
      const from = portOf(a, network);
      if (b) {
        const to = portOf(b, network);
        const back = oneWay ? '' : `, ${to} . ${from}`;
        await nft(['add', 'element', 'bridge', 'lab', 'cut', `{ ${from} . ${to}${back} }`]);
      } else if (oneWay) await nft(['add', 'element', 'bridge', 'lab', 'mute', `{ ${from} }`]);
      else await link(from, '0');
    },

    /**
     * @param {string[]} nodes - all of the lab @param {string} [a] @param {string} [b]
     * @param {{network?: string}} [options] - without it and without nodes: all networks
     */
    async heal(nodes, a, b, { network } = {}) {
      if (a && b) {
        const [one, other] = [a, b].map((node) => portOf(node, network ?? 'management'));
        for (const pair of [`${one} . ${other}`, `${other} . ${one}`]) await drop('cut', pair);
      } else if (a) {
        const port = portOf(a, network ?? 'management');
        await link(port, '3');
        await drop('mute', port);
      } else if (network) for (const node of nodes) await this.heal(nodes, node, undefined, { network });
      else {
        for (const set of ['cut', 'mute']) await nft(['flush', 'set', 'bridge', 'lab', set]);
        for (const node of nodes) for (const { port } of cables(node)) await link(port, '3');
      }
    },

    nft,

    async remove() {
      const { stdout } = await run('ip', ['netns', 'list']);
      const names = stdout.split('\n').map((line) => line.split(' ')[0] ?? '');
      for (const name of names.filter((each) => each.startsWith(`${id}-`)))
        await run('ip', ['netns', 'del', name]);
    },

    require() {
      if (!existsSync(`/run/netns/${fabric}`))
        throw new LabError(`lab ${id} is not up`, `run: scripts/${config.kind} up 3`);
    },
  };

  /** Takes something off a list, if it is on it. @param {string} set @param {string} element */
  async function drop(set, element) {
    const { stdout } = await nft(['list', 'set', 'bridge', 'lab', set]);
    const words = element.split(' . ').map((word) => `"${word}"`);
    if (stdout.includes(words.join(' . ')))
      await nft(['delete', 'element', 'bridge', 'lab', set, `{ ${element} }`]);
  }
}

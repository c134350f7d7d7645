// The cables: two bridges in a network namespace of their own, so nothing of it is on the machine's own network.
// br0 carries the nodes (eth0), br1 the guests (eth1). Node namespaces and cables outlive a node's power loss, with
// the same MAC and address, as in a rack.
import { existsSync } from 'node:fs';
import { LabError, numberOf } from './config.mjs';
import { run } from './run.mjs';

/** nft: drops what is on the list of cut pairs. `iifname . oifname` needs no optional kernel part. */
const cutter = `table bridge lab {
  set cut { type ifname . ifname; }
  chain cutter { type filter hook forward priority 0; iifname . oifname @cut drop; }
}`;

/** @param {import('./config.mjs').LabConfig} config */
export function fabricOf(config) {
  const { id, fabric } = config;
  // `ip netns exec` mounts another /sys, in which the cgroup tree is hidden: always nsenter.
  const inside = (/** @type {string[]} */ ...args) => ['nsenter', [`--net=/run/netns/${fabric}`, ...args]];
  const ip = (/** @type {string[]} */ ...args) => run('ip', ['-n', fabric, ...args]);
  const nft = (/** @type {string[]} */ args, /** @type {string} */ input = '') => {
    const [file, words] = inside('chroot', config.root(), 'nft', ...args);
    return run(file, words, { input });
  };
  const bridge = (/** @type {string[]} */ ...args) => run(...inside('bridge', ...args));
  const pair = (/** @type {string} */ a, /** @type {string} */ b) => `{ p-${a} . p-${b}, p-${b} . p-${a} }`;

  return {
    inside,
    /** @param {string} node */
    namespace: (node) => `/run/netns/${id}-${node}`,

    async prepare() {
      if (existsSync(`/run/netns/${fabric}`)) return;
      await run('ip', ['netns', 'add', fabric]);
      await ip('link', 'set', 'lo', 'up');
      for (const [name, net] of [
        ['br0', config.net],
        ['br1', config.guestNet],
      ]) {
        await ip('link', 'add', name, 'type', 'bridge', 'mcast_snooping', '0');
        await ip('addr', 'add', `${net}.254/24`, 'dev', name);
        await ip('link', 'set', name, 'up');
      }
      await nft(['-f', '-'], cutter);
    },

    /** Plugs a node in: makes namespace and cables, or only raises them. @param {string} node */
    async plug(node) {
      const number = numberOf(node);
      const own = `${id}-${node}`;
      if (!existsSync(`/run/netns/${own}`)) {
        await run('ip', ['netns', 'add', own]);
        await run('ip', ['-n', own, 'link', 'set', 'lo', 'up']);
        for (const [device, port, mac, bridgeName] of cables(node, number)) {
          await run('ip', [
            'link',
            'add',
            device,
            'netns',
            own,
            'address',
            mac,
            'type',
            'veth',
            'peer',
            'name',
            port,
            'netns',
            fabric,
          ]);
          await ip('link', 'set', port, 'master', bridgeName);
          await run('ip', ['-n', own, 'link', 'set', device, 'up']);
        }
        await run('ip', ['-n', own, 'addr', 'add', `${config.net}.${number}/24`, 'dev', 'eth0']);
      }
      for (const [, port] of cables(node, number)) await ip('link', 'set', port, 'up');
    },

    /** Silence at once: no FIN, no RST leaves the node. @param {string} node */
    async unplug(node) {
      for (const [, port] of cables(node, numberOf(node))) await ip('link', 'set', port, 'down');
    },

    /**
     * Cuts the nodes' network: of one node from all others, or between two. The node still sees its link, as with a
     * broken switch. Guests' network stays.
     *
     * @param {string} a @param {string} [b]
     */
    async cut(a, b) {
      if (b) await nft(['add', 'element', 'bridge', 'lab', 'cut', pair(a, b)]);
      else await bridge('link', 'set', 'dev', `p-${a}`, 'state', '0');
    },

    /** @param {string[]} nodes - all of the lab @param {string} [a] @param {string} [b] */
    async heal(nodes, a, b) {
      if (a && b) await nft(['delete', 'element', 'bridge', 'lab', 'cut', pair(a, b)]);
      else if (a) await bridge('link', 'set', 'dev', `p-${a}`, 'state', '3');
      else {
        await nft(['flush', 'set', 'bridge', 'lab', 'cut']);
        for (const node of nodes) await bridge('link', 'set', 'dev', `p-${node}`, 'state', '3');
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
        throw new LabError(`lab ${id} is not up`, 'run: scripts/lab up 3');
    },
  };
}

/** Device in the node, port on the bridge, MAC, bridge. @param {string} node @param {number} number */
function cables(node, number) {
  const last = number.toString(16).padStart(2, '0');
  return [
    ['eth0', `p-${node}`, `02:79:00:00:00:${last}`, 'br0'],
    ['eth1', `q-${node}`, `02:79:01:00:00:${last}`, 'br1'],
  ];
}

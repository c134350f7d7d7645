import { createHash } from 'node:crypto';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { lastHost, parseCidr } from '../../core/domain/ipv4.js';
import type { Network } from '../../core/domain/network.js';
import { parse } from '../../core/domain/schema.js';
import type { Tool } from '../pool/tool.js';
import type { Snapshot } from '../snapshot.js';
import type { Link } from './link.js';

/** Addresses of the nodes, in one network of theirs. */
export interface OverlayPeers {
  readonly own: string;
  readonly others: readonly string[];
}

/** Null: this node is not in the ledger, or nothing was read yet. */
export function overlayPeers(s: Snapshot | null, node: string): OverlayPeers | null {
  const own = s?.nodes.get(node)?.value.addresses[0];
  if (s === null || own === undefined) return null;
  const others = [...s.nodes.values()].flatMap(({ value: n }) =>
    n.id === node || n.witness ? [] : (n.addresses[0] ?? []),
  );
  return { own, others: others.sort() };
}

/** @see RFC 7348 */
const vxlanPort = 4789;
/** A guest's usual frame. The larger packet around it is cut in two on the nodes' network where that has no larger ones. */
const mtu = 1500;
const everybody = '00:00:00:00:00:00';
const deadlineMs = 10_000;
/** A service that is there answers within this, ms. */
const answerMs = 5_000;

export const overlayMark = (networkId: string): string => `flotilla-overlay:${networkId}`;
export const overlayName = (vni: number): string => `fvx${vni.toString(16)}`;

const fdbSchema = z.array(z.object({ mac: z.string().default(''), dst: z.string().optional() }));

/**
 * Joins the bridges of an isolated network: a VXLAN whose frames to everybody go to each other node, and which learns
 * from what comes where a MAC is. What it carries is not encrypted.
 */
export class Overlay {
  readonly #run: Tool;
  readonly #ipArgs: readonly string[];
  readonly #peers: () => OverlayPeers | null;
  /** Peers that the network was last told of. */
  readonly #told = new Map<string, string>();

  constructor(o: { run: Tool; ipArgs: readonly string[]; peers: () => OverlayPeers | null }) {
    this.#run = o.run;
    this.#ipArgs = o.ipArgs;
    this.#peers = o.peers;
  }

  /** It is as {@link settle} left it, and the nodes are the same. */
  settled(network: Network): boolean {
    return this.#told.get(network.id) === JSON.stringify(this.#peers());
  }

  async settle(network: Network, bridge: Link, links: ReadonlyMap<string, Link>): Promise<void> {
    const peers = this.#peers();
    if (network.vni === undefined || peers === null) return;
    const name = overlayName(network.vni);
    const there = links.get(name);
    if (there !== undefined && there.alias !== overlayMark(network.id)) {
      if (there.alias !== '')
        throw new FlotillaError('in-use', `The link ${name} belongs to something else`, {
          hint: `Take it away, so that network "${network.name}" can join the nodes.`,
        });
      await this.#tool('ip', 'link', 'del', 'dev', name); // half made
    }
    if (there?.alias !== overlayMark(network.id)) {
      const to = ['id', String(network.vni), 'dstport', String(vxlanPort), 'local', peers.own];
      await this.#tool('ip', 'link', 'add', 'name', name, 'mtu', String(mtu), 'type', 'vxlan', ...to);
      await this.#tool('ip', 'link', 'set', 'dev', name, 'alias', overlayMark(network.id));
    }
    if (there?.master !== bridge.name)
      await this.#tool('ip', 'link', 'set', 'dev', name, 'master', bridge.name);
    if (there?.up !== true) await this.#tool('ip', 'link', 'set', 'dev', name, 'up');
    await this.#tell(name, peers.others);
    this.#told.set(network.id, JSON.stringify(peers));
  }

  async #tell(link: string, wanted: readonly string[]): Promise<void> {
    const text = await this.#tool('bridge', '-j', 'fdb', 'show', 'dev', link);
    const seen = parse(fdbSchema, text.trim() === '' ? [] : JSON.parse(text), 'what "bridge" tells')
      .filter((e) => e.mac === everybody)
      .flatMap((e) => e.dst ?? []);
    for (const dst of wanted)
      if (!seen.includes(dst))
        await this.#tool('bridge', 'fdb', 'append', everybody, 'dev', link, 'dst', dst);
    for (const dst of seen)
      if (!wanted.includes(dst)) await this.#tool('bridge', 'fdb', 'del', everybody, 'dev', link, 'dst', dst);
  }

  /** Looks from the network's last address, with a card that is there for so long only. */
  async answers(
    network: Network,
    address: string,
    { port, path }: { readonly port: number; readonly path: string | null },
  ): Promise<boolean> {
    if (network.subnet === null) return false;
    const h = createHash('sha256').update(network.id).digest('hex');
    const name = `flp${h.slice(0, 8)}`;
    const from = `${lastHost(network.subnet)}/${parseCidr(network.subnet).bits}`;
    // The same on each node: guests that looked it up before need not ask anew.
    const mac = `02:f1:${[0, 2, 4, 6].map((i) => h.slice(i, i + 2)).join(':')}`;
    const clear = (): Promise<unknown> => this.#tool('ip', 'netns', 'del', name).catch(() => undefined);
    await clear();
    await this.#tool('ip', 'netns', 'add', name);
    try {
      await this.#tool(
        'ip',
        'link',
        'add',
        'name',
        name,
        'type',
        'veth',
        'peer',
        'name',
        'p0',
        'netns',
        name,
      );
      await this.#tool('ip', 'link', 'set', 'dev', name, 'master', network.bridge, 'up');
      const inside = ['-n', name];
      await this.#run('ip', [...inside, 'link', 'set', 'dev', 'p0', 'address', mac, 'up'], { deadlineMs });
      await this.#run('ip', [...inside, 'address', 'add', from, 'dev', 'p0'], { deadlineMs });
      const script =
        path === null
          ? 'exec 3<>"/dev/tcp/$0/$1"'
          : 'exec 3<>"/dev/tcp/$0/$1"; printf "GET %s HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n" "$2" "$0" >&3; IFS= read -r line <&3; [[ $line =~ ^HTTP/[0-9.]+\\ [23] ]]';
      const args = [`--net=/run/netns/${name}`, 'bash', '-euc', script, address, String(port), path ?? ''];
      await this.#run('nsenter', args, { deadlineMs: answerMs });
      return true;
    } catch {
      return false;
    } finally {
      await clear();
    }
  }

  async #tool(file: 'ip' | 'bridge', ...args: string[]): Promise<string> {
    return (await this.#run(file, [...this.#ipArgs, ...args], { deadlineMs })).stdout;
  }
}

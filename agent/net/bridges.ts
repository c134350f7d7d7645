import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { FlotillaError } from '../../core/domain/error.js';
import type { Network } from '../../core/domain/network.js';
import type { Bridges as BridgesContract } from '../env.js';
import { runTool, type Tool } from '../pool/tool.js';
import { Turns } from '../pool/turn.js';
import { parseLinks, type Link } from './link.js';
import { Overlay, overlayMark, overlayName, type OverlayPeers } from './overlay.js';

export interface BridgesOptions {
  readonly node: string;
  readonly run?: Tool;
  /** Words before each command of `ip`, e.g. `-n NAMESPACE` in tests. */
  readonly ipArgs?: readonly string[];
  /** The nodes that isolated networks join; null: not known yet. */
  readonly peers?: () => OverlayPeers | null;
}

const deadlineMs = 10_000;

/** Stands on a bridge that is ours, as its alias. */
const bridgeMark = (networkId: string): string => `flotilla:${networkId}`;
/** Stands on a NIC that we put into a bridge. */
const uplinkMark = (networkId: string): string => `flotilla-uplink:${networkId}`;

/**
 * The node's bridges, one per network. What we made is marked in the kernel itself, by the link's alias: an unmarked
 * bridge of that name is used as it is and never changed, any other unmarked link is never touched.
 */
export class Bridges implements BridgesContract {
  readonly #node: string;
  readonly #run: Tool;
  readonly #ipArgs: readonly string[];
  readonly #turns = new Turns();
  readonly #overlay: Overlay;

  constructor(o: BridgesOptions) {
    this.#node = o.node;
    this.#run = o.run ?? runTool;
    this.#ipArgs = o.ipArgs ?? [];
    this.#overlay = new Overlay({ run: this.#run, ipArgs: this.#ipArgs, peers: o.peers ?? (() => null) });
  }

  /**
   * @throws FlotillaError `in-use`: the name is another link's, or the uplink carries addresses or is in another bridge;
   *   `not-found`: no such uplink here
   */
  async ensure(network: Network): Promise<void> {
    const joined = network.vni === undefined || this.#overlay.settled(network);
    if (this.#ipArgs.length === 0 && joined && settled(network)) return;
    await this.#turns.take('ip', async () => {
      let links = await this.#links();
      const there = links.get(network.bridge);
      if (!there) {
        // Refused before anything is made: a bridge without its uplink would look like a working one.
        if (network.uplink !== null) this.#uplink(network, links);
        await this.#make(network, links);
        links = await this.#links();
      }
      const bridge = this.#bridge(network, links);
      if (bridge.alias !== bridgeMark(network.id)) return this.#foreign(network, links);
      await this.#settle(network, bridge, links);
      await this.#overlay.settle(network, bridge, links);
    });
  }

  async answers(
    network: Network,
    address: string,
    o: { readonly port: number; readonly path: string | null },
  ): Promise<boolean> {
    if (network.vni === undefined) return answersHere(address, o);
    await this.ensure(network);
    return this.#turns.take('look', () => this.#overlay.answers(network, address, o));
  }

  /**
   * Takes a deleted network's bridge away.
   *
   * @throws FlotillaError `in-use`: VMs are still on it
   */
  async remove(network: Pick<Network, 'id' | 'name' | 'bridge'>): Promise<void> {
    await this.#turns.take('ip', async () => {
      const links = await this.#links();
      const bridge = [...links.values()].find((l) => l.alias === bridgeMark(network.id));
      if (!bridge || bridge.kind !== 'bridge') return;
      const ports = portsOf(bridge, links);
      const joins = ports.filter((p) => p.alias === overlayMark(network.id));
      const guests = ports.filter((p) => p.alias !== uplinkMark(network.id) && !joins.includes(p));
      if (guests.length > 0) {
        throw new FlotillaError(
          'in-use',
          `Bridge ${bridge.name} of network "${network.name}" still has ${names(guests)}`,
          {
            hint: 'Stop the VMs on it, or move their NICs, first.',
          },
        );
      }
      for (const port of ports)
        if (joins.includes(port)) await this.#ip('link', 'del', 'dev', port.name);
        else await this.#release(port);
      await this.#ip('link', 'del', 'dev', bridge.name);
    });
  }

  /** Bridges here that are ours, so that those of networks deleted meanwhile can be removed. */
  async owned(): Promise<{ network: string; bridge: string }[]> {
    const ours = (alias: string, bridge: string) =>
      alias.startsWith('flotilla:') ? [{ network: alias.slice('flotilla:'.length), bridge }] : [];
    // Asked every half minute: by /sys, as in {@link settled}.
    if (this.#ipArgs.length === 0)
      return bridgesHere().flatMap((name) => ours(readSys(name, 'ifalias'), name));
    const links = await this.#links();
    return [...links.values()].filter((l) => l.kind === 'bridge').flatMap((l) => ours(l.alias, l.name));
  }

  /** Made under a name of its own, marked, and only then named: an unmarked bridge of ours never has its final name. */
  async #make(network: Network, links: ReadonlyMap<string, Link>): Promise<void> {
    const temp = `flt-${createHash('sha256').update(network.id).digest('hex').slice(0, 10)}`;
    if (links.has(temp)) await this.#ip('link', 'del', 'dev', temp);
    const options = ['type', 'bridge', 'stp_state', '0', 'forward_delay', '0'];
    await this.#ip('link', 'add', 'name', temp, 'address', this.#addressOf(network), ...options);
    await this.#ip('link', 'set', 'dev', temp, 'alias', bridgeMark(network.id));
    await this.#ip('link', 'set', 'dev', temp, 'name', network.bridge);
  }

  /** A fixed address per network and node: else a bridge takes a new one whenever a VM's port comes or goes. */
  #addressOf(network: Network): string {
    const h = createHash('sha256').update(`${network.id} ${this.#node}`).digest('hex');
    return `02:f0:${[0, 2, 4, 6].map((i) => h.slice(i, i + 2)).join(':')}`;
  }

  #bridge(network: Network, links: ReadonlyMap<string, Link>): Link {
    const bridge = links.get(network.bridge);
    if (bridge?.kind !== 'bridge') {
      throw new FlotillaError(
        'in-use',
        `${network.bridge} on ${this.#node} is a ${bridge?.kind || 'network card'}, not a bridge`,
        {
          hint: `Give network "${network.name}" another bridge name.`,
        },
      );
    }
    if (bridge.alias.startsWith('flotilla:') && bridge.alias !== bridgeMark(network.id)) {
      throw new FlotillaError(
        'in-use',
        `Bridge ${network.bridge} on ${this.#node} belongs to another network, ${bridge.alias.slice(9)}`,
        {
          hint: `Give network "${network.name}" another bridge name.`,
        },
      );
    }
    return bridge;
  }

  /** A bridge that somebody else made: good as it is, or not at all. */
  #foreign(network: Network, links: ReadonlyMap<string, Link>): void {
    const bridge = this.#bridge(network, links);
    const problem = !bridge.up
      ? 'is down'
      : network.uplink !== null && links.get(network.uplink)?.master !== bridge.name
        ? `does not have ${network.uplink} in it`
        : null;
    if (problem === null) return;
    throw new FlotillaError(
      'in-use',
      `Bridge ${bridge.name} on ${this.#node} was not made by Flotilla and ${problem}`,
      {
        hint: 'Mend it where it was made, delete it so that Flotilla makes its own, or choose another bridge name.',
      },
    );
  }

  async #settle(network: Network, bridge: Link, links: ReadonlyMap<string, Link>): Promise<void> {
    const uplink = network.uplink === null ? null : this.#uplink(network, links);
    for (const port of portsOf(bridge, links))
      if (port.alias === uplinkMark(network.id) && port.name !== uplink?.name) await this.#release(port);
    // Without an address of its own the node cannot be reached from the guests' network.
    if (bridge.addrGen !== 'none') await this.#ip('link', 'set', 'dev', bridge.name, 'addrgenmode', 'none');
    if (bridge.stp !== 0 || bridge.forwardDelay !== 0)
      await this.#ip(
        'link',
        'set',
        'dev',
        bridge.name,
        'type',
        'bridge',
        'stp_state',
        '0',
        'forward_delay',
        '0',
      );
    if (!bridge.up) await this.#ip('link', 'set', 'dev', bridge.name, 'up');
    if (uplink === null) return;
    if (uplink.master !== bridge.name)
      await this.#ip('link', 'set', 'dev', uplink.name, 'master', bridge.name);
    if (uplink.alias === '')
      await this.#ip('link', 'set', 'dev', uplink.name, 'alias', uplinkMark(network.id));
    if (!uplink.up) await this.#ip('link', 'set', 'dev', uplink.name, 'up');
  }

  /** The uplink, if taking it cuts nobody off. */
  #uplink(network: Network, links: ReadonlyMap<string, Link>): Link {
    const name = network.uplink ?? '';
    const link = links.get(name);
    if (!link) {
      throw new FlotillaError(
        'not-found',
        `Uplink ${name} of network "${network.name}" is not on ${this.#node}`,
        {
          hint: `There are: ${[...links.keys()].slice(0, 12).join(', ')}.`,
        },
      );
    }
    const refuse = (why: string, hint: string) =>
      new FlotillaError(
        'in-use',
        `Uplink ${name} of network "${network.name}" cannot be used on ${this.#node}: ${why}`,
        { hint },
      );
    if (link.loopback || link.kind === 'bridge')
      throw refuse('it is no network card', 'Choose a card, a bond or a VLAN.');
    if (link.master !== null && link.master !== network.bridge)
      throw refuse(`it is in ${link.master}`, `Take it out of ${link.master} first.`);
    const busy = [link, ...[...links.values()].filter((l) => l.parent === name)].filter(
      (l) => l.addresses.length > 0,
    );
    if (busy.length > 0 && link.master !== network.bridge) {
      throw refuse(
        `${busy.map((l) => `${l.name} has the address ${l.addresses[0]}`).join(', ')}, which would be cut off`,
        'Choose a card that the node itself does not use, or make the bridge by hand and give no uplink.',
      );
    }
    return link;
  }

  async #release(port: Link): Promise<void> {
    await this.#ip('link', 'set', 'dev', port.name, 'nomaster');
    await this.#ip('link', 'set', 'dev', port.name, 'alias', '');
  }

  async #links(): Promise<ReadonlyMap<string, Link>> {
    // With `-d` it tells all that `link show` does too.
    const all = await this.#ip('-j', '-d', 'address', 'show');
    return parseLinks(all, all);
  }

  async #ip(...args: string[]): Promise<string> {
    const r = await this.#run('ip', [...this.#ipArgs, ...args], { deadlineMs });
    return r.stdout;
  }
}

const readSys = (link: string, file: string): string =>
  readFileSync(`/sys/class/net/${link}/${file}`, 'utf8').trim();

const bridgesHere = (): string[] =>
  readdirSync('/sys/class/net').filter((link) => existsSync(`/sys/class/net/${link}/bridge`));

/**
 * Whether the bridge of ours is as {@link Bridges.ensure} leaves it, by /sys alone. It nearly always is, and each start
 * of a VM asks: a run of `ip` takes 30 ms. @see sysfs-class-net of the kernel's ABI documentation
 */
function settled({ id, bridge, uplink, vni }: Network): boolean {
  const of = readSys;
  const isUp = (link: string): boolean => (Number(of(link, 'flags')) & 1) === 1;
  try {
    if (of(bridge, 'ifalias') !== bridgeMark(id) || !isUp(bridge)) return false;
    if (of(bridge, 'bridge/stp_state') !== '0' || of(bridge, 'bridge/forward_delay') !== '0') return false;
    if (readFileSync(`/proc/sys/net/ipv6/conf/${bridge}/addr_gen_mode`, 'utf8').trim() !== '1') return false;
    if (
      vni !== undefined &&
      !(existsSync(`/sys/class/net/${bridge}/brif/${overlayName(vni)}`) && isUp(overlayName(vni)))
    )
      return false;
    const uplinks = readdirSync(`/sys/class/net/${bridge}/brif`).filter(
      (port) => of(port, 'ifalias') === uplinkMark(id),
    );
    if (uplink === null) return uplinks.length === 0;
    return uplinks.length === 1 && uplinks[0] === uplink && isUp(uplink);
  } catch {
    return false; // something is not there: the long way says what, or makes it
  }
}

/** A service answers within this, ms. */
const answerMs = 5_000;

/** By the node's own network: guests that have a way out are reached so, or not at all. */
function answersHere(
  host: string,
  { port, path }: { readonly port: number; readonly path: string | null },
): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: answerMs });
    let text = '';
    const end = (yes: boolean): void => {
      socket.destroy();
      resolve(yes);
    };
    socket.on('error', () => end(false)).on('timeout', () => end(false));
    socket.on('close', () => end(false));
    socket.on('connect', () => {
      if (path === null) end(true);
      else socket.write(`GET ${path} HTTP/1.0\r\nHost: ${host}\r\n\r\n`);
    });
    socket.setEncoding('latin1').on('data', (part: string) => {
      text += part;
      if (text.length > 12) end(/^HTTP\/[0-9.]+ [23]/.test(text));
    });
  });
}

const portsOf = (bridge: Link, links: ReadonlyMap<string, Link>): Link[] =>
  [...links.values()].filter((l) => l.master === bridge.name);

const names = (links: readonly Link[]): string =>
  `${links.length} port(s): ${links
    .slice(0, 5)
    .map((l) => l.name)
    .join(', ')}`;

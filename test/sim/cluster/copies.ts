import { FenceJudge, verdicts, type Verdict } from '../../../agent/drbd/fence-door.js';
import type { AgentEnv, Replication } from '../../../agent/env.js';
import { FlotillaError } from '../../../core/domain/error.js';
import { otherNode, type PairSeen, type Replica } from '../../../core/domain/replica.js';
import { watchPairs } from '../fake-pairs.js';
import type { Process, SimTime } from './time.js';

/** The kernels look at their links, and guests write, so often, ms. */
const tickMs = 250;
/** What differs is copied within this, ms. */
const syncMs = 3_000;
/** A question is answered within this by an agent, or it is a no, ms. @see fence-door.ts */
const questionMs = 50_000;

/** One node's copy of a VM's disk. Its first part outlives the power. */
interface Copy {
  /** The last write on it. */
  data: number;
  whole: boolean;
  /** Which history its data is of; the one it went on from alone, where it did. */
  history: string;
  parent: string | null;
  /** It was written to when its node lost its power. */
  crashed: boolean;
  /** Its drive is gone. */
  lost: boolean;
  open: boolean;
  /** It has seen its peer, or was told by the ledger, since it was opened: else it is only `Consistent`. */
  sure: boolean;
  primary: boolean;
  /** Its kernel lets both write at a time. */
  two: boolean;
  frozen: boolean;
  /** Not connected because the two refused each other. */
  refused: boolean;
  /** The two nodes and their addresses, as it was told last. */
  madeFrom: string;
  /** The node of the other copy, by that. */
  peer: string;
  discards: boolean;
  /** The kernel's question about the lost peer is under way. */
  asking: boolean;
}

interface Pair {
  readonly vm: string;
  readonly minor: number;
  readonly copies: Map<string, Copy>;
  /** The two that are connected. */
  link: readonly [string, string] | null;
  /** They have refused each other, which was said. */
  split: boolean;
  /** Who copies to whom, and until when. */
  sync: { readonly to: string; readonly untilMs: number } | null;
  /** The last write that the guest was told is done. */
  told: number;
}

const sides = (r: Replica): string => JSON.stringify([r.port, r.nodes]);

const linked = (pair: Pair, node: string): boolean => pair.link?.includes(node) === true;

/** What a kernel knows of a copy that it has just found, or that lost its power. */
const asleep = {
  open: false,
  sure: false,
  primary: false,
  two: false,
  frozen: false,
  refused: false,
  asking: false,
};

/** A volume that holds nothing yet, not open. */
const closed = (history: string, peer: string): Copy => ({
  data: 0,
  whole: false,
  history,
  parent: null,
  crashed: false,
  lost: false,
  madeFrom: '',
  peer,
  discards: false,
  ...asleep,
});

interface Door {
  alive(): boolean;
  ask(vm: string): Promise<Verdict>;
}

export interface CopiesParts {
  readonly time: SimTime;
  readonly uuid: () => string;
  readonly chance: () => number;
  powered(node: string): boolean;
  /** The way between two nodes for their disks works. */
  reaches(a: string, b: string): boolean;
  /** The guest runs on that node in this moment. */
  executes(node: string, vm: string): boolean;
  /** A machine of it is there, whether it runs, is paused or frozen: it has the disk open. */
  holds(node: string, vm: string): boolean;
  report(promise: string, text: string): void;
  /** The ledger calls that node's copy stale now. */
  stale(vm: string, node: string): boolean;
  say(text: string): void;
}

/** The kernels' DRBD of a simulated cluster: pairs of disks, their links, freezes and questions. One volume a VM. */
export class SimCopies {
  readonly #p: CopiesParts;
  readonly #pairs = new Map<string, Pair>();
  readonly #deleted = new Set<string>();
  /** Who answers the kernel of a node; none: no agent is there. */
  readonly #doors = new Map<string, Door>();
  #ticking = false;

  constructor(p: CopiesParts) {
    this.#p = p;
  }

  has(vm: string): boolean {
    return this.#pairs.has(vm);
  }

  /** Nodes whose copy lacks what the guest was told of. */
  lacks(vm: string): string[] {
    const { copies, told } = this.#pair(vm);
    return [...copies].filter(([, c]) => !c.whole || c.data < told).map(([n]) => n);
  }

  /** Whether that node's copy of a VM that has copies is being written over, or has lost its drive: then there is but one. */
  half(vm: string, node: string): boolean {
    return this.has(vm) && this.#pair(vm).copies.get(node)?.whole !== true;
  }

  /** VMs of whose disks both copies are open for writing, or might be: nothing of a migration may be left behind. */
  shared(): string[] {
    return [...this.#pairs.values()]
      .filter(
        (p) => [...p.copies.values()].some((c) => c.two) || [...p.copies.values()].every((c) => c.primary),
      )
      .map((p) => p.vm);
  }

  /** Two copies of a new disk, alike. */
  add(vm: string, minor: number, nodes: readonly [string, string]): void {
    const history = this.#p.uuid();
    const [a, b] = nodes;
    const copies = new Map([
      [a, { ...closed(history, b), whole: true }],
      [b, { ...closed(history, a), whole: true }],
    ]);
    this.#pairs.set(vm, { vm, minor, copies, link: null, split: false, sync: null, told: 0 });
    if (!this.#ticking) this.#tick();
    this.#ticking = true;
  }

  /** A machine opens the disk on that node. @throws Error it is not the one that writes */
  open(node: string, vm: string): void {
    const c = this.#copy(node, vm);
    if (!c.primary || !c.open) throw new Error(`the disk of ${vm} is not open for writing on ${node}`);
    const pair = this.#pair(vm);
    const { told } = pair;
    // What is not here yet is read from the other one while it is copied.
    const [, peer] = this.#other(node, pair);
    if (!c.whole && peer.primary)
      this.#p.report('safety 6', `VM ${vm} is to come to ${node}, whose copy is half of another state`);
    if (!c.whole && pair.sync?.to === node && peer.data >= told) return;
    if (c.data < told || !c.whole)
      this.#p.report(
        c.whole ? 'P2' : 'P3',
        `VM ${vm} starts on ${node} from a copy that has ${c.data} of ${told} writes that its guest was told of`,
      );
  }

  /** Whether that node has a volume for a copy. */
  holds(node: string, vm: string): boolean {
    return this.#pairs.get(vm)?.copies.has(node) === true;
  }

  /** Somebody asked for its VM to be deleted: its copies go, all of them. */
  delete(vm: string): void {
    this.#deleted.add(vm);
  }

  /** Its volume is taken away. */
  remove(node: string, vm: string): void {
    const pair = this.#pair(vm);
    if (pair.copies.get(node)?.open === true) throw new Error(`the copy of ${vm} on ${node} is still open`);
    const others = [...pair.copies].filter(([n, c]) => n !== node && c.whole);
    if (pair.copies.has(node) && others.length < 2 && !this.#deleted.has(vm))
      this.#p.report('safety 13', `the copy of VM ${vm} on ${node} is taken away with no other two there`);
    pair.copies.delete(node);
  }

  /** The drive below it fails: what is read and written there goes to the other copy. */
  loseDrive(node: string, vm: string): void {
    Object.assign(this.#copy(node, vm), { lost: true, whole: false });
  }

  /** Somebody writes to it while it is apart, without the ledger. */
  writeApart(node: string, vm: string): void {
    const c = this.#copy(node, vm);
    c.data++;
    this.#alone(c);
  }

  powerOff(node: string): void {
    for (const pair of this.#pairs.values()) {
      const c = pair.copies.get(node);
      if (c === undefined) continue;
      // What was on its way when the power went may be on this disk alone; nobody was told.
      if (c.primary && this.#p.chance() < 0.5) c.data++;
      // Known until the two have met again, however often it fails before.
      c.crashed ||= c.primary;
      Object.assign(c, asleep);
      const [other, peer] = this.#other(node, pair);
      if (linked(pair, node) && peer.primary) this.#freeze(pair, other, peer);
      if (linked(pair, node)) {
        pair.link = null;
        pair.sync = null;
      }
    }
  }

  #pair(vm: string): Pair {
    const p = this.#pairs.get(vm);
    if (p === undefined) throw new Error(`VM ${vm} has no copies`);
    return p;
  }

  #copy(node: string, vm: string): Copy {
    const c = this.#pair(vm).copies.get(node);
    if (c === undefined) throw new Error(`${node} has no copy of ${vm}`);
    return c;
  }

  #other(node: string, pair: Pair): readonly [string, Copy] {
    const { peer } = this.#copy(node, pair.vm);
    // None there yet, or no more: as one that is not open.
    return [peer, pair.copies.get(peer) ?? closed('', node)];
  }

  #tick(): void {
    for (const pair of this.#pairs.values()) {
      this.#link(pair);
      this.#write(pair);
    }
    this.#p.time.after(tickMs, () => this.#tick());
  }

  #link(pair: Pair): void {
    for (const [a, x] of pair.copies) {
      const b = x.peer;
      const y = pair.copies.get(b);
      const open = y !== undefined && y.peer === a && x.open && y.open && !x.refused && !y.refused;
      const up = open && x.madeFrom === y.madeFrom && this.#p.reaches(a, b);
      if (up && !linked(pair, a)) this.#connect(pair, [a, x], [b, y]);
      else if (!up && linked(pair, a)) {
        const ends = pair.link ?? [];
        pair.link = null;
        pair.sync = null;
        for (const node of ends) {
          const c = pair.copies.get(node);
          if (c?.primary === true) this.#freeze(pair, node, c);
        }
      }
    }
    if (pair.sync !== null && this.#p.time.nowMs >= pair.sync.untilMs) {
      const target = this.#copy(pair.sync.to, pair.vm);
      const [, source] = this.#other(pair.sync.to, pair);
      Object.assign(target, {
        data: source.data,
        whole: true,
        sure: true,
        history: source.history,
        parent: null,
      });
      source.parent = null;
      pair.sync = null;
    }
  }

  #connect(pair: Pair, [a, x]: readonly [string, Copy], [b, y]: readonly [string, Copy]): void {
    const to = (node: string): void => {
      const target = this.#copy(node, pair.vm);
      // What a node has open is not written over.
      if (target.primary && target.whole) {
        this.#p.say(`the copies of ${pair.vm} refuse each other: ${node} has its own open`);
        x.refused = y.refused = true;
        return;
      }
      target.whole = false;
      this.#p.say(`${pair.vm}: what differs is copied to ${node}`);
      pair.sync = { to: node, untilMs: this.#p.time.nowMs + syncMs };
    };
    // Both write, or the two do not agree whether that is allowed.
    if ((x.primary && y.primary) || x.two !== y.two) {
      x.refused = y.refused = true;
      return;
    }
    if (x.history === y.history) {
      if (x.lost || y.lost) pair.sync = null;
      else if (!x.whole) to(a);
      else if (!y.whole) to(b);
      // Who was written to when the power went has what the other may lack.
      else if (x.data !== y.data) to(x.crashed || (x.primary && !y.crashed) ? b : a);
    } else if (x.parent === y.history) to(b);
    else if (y.parent === x.history) to(a);
    else if (x.discards && !x.primary) this.#discard(pair, a, to);
    else if (y.discards && !y.primary) this.#discard(pair, b, to);
    else if (!x.whole && y.whole && !x.primary) to(a);
    else if (!y.whole && x.whole && !y.primary) to(b);
    else {
      if (!pair.split)
        this.#p.say(`the copies of ${pair.vm} refuse each other: both were written while apart`);
      pair.split = true;
      x.refused = y.refused = true;
      x.discards = y.discards = false;
      return;
    }
    if (x.refused || y.refused) return;
    pair.link = [a, b];
    pair.split = false;
    for (const c of [x, y]) {
      if (c.whole) c.sure = true;
      Object.assign(c, { frozen: false, discards: false, crashed: false });
    }
  }

  /** What was written there is thrown away. */
  #discard(pair: Pair, node: string, to: (node: string) => void): void {
    if (!this.#p.stale(pair.vm, node))
      this.#p.report(
        'safety 8',
        `${node} throws away what it has of VM ${pair.vm} without the ledger's proof`,
      );
    to(node);
  }

  #freeze(pair: Pair, node: string, c: Copy): void {
    if (c.frozen) return;
    c.frozen = true;
    void this.#ask(pair, node, c).then((yes) => {
      if (yes && c.frozen && !linked(pair, node)) this.#alone(c);
    });
  }

  /** One side ends the connection in good order: the other copy knows that it is out of date, and nobody is asked. */
  #goodbye(pair: Pair, node: string, c: Copy): void {
    c.refused = true;
    if (!linked(pair, node)) return;
    const [, peer] = this.#other(node, pair);
    pair.link = null;
    pair.sync = null;
    if (!c.primary) return;
    Object.assign(peer, { whole: false, sure: false });
    this.#alone(c);
  }

  /** The kernel asks who sits behind the door, again and again where nobody does. */
  async #ask(pair: Pair, node: string, c: Copy): Promise<boolean> {
    c.asking = true;
    const untilMs = this.#p.time.nowMs + questionMs;
    while (c.open && this.#p.powered(node) && this.#p.time.nowMs < untilMs) {
      const answer = await this.#answer(node, pair.vm);
      if (answer !== null) {
        c.asking = false;
        return answer === verdicts.fenced;
      }
      await new Promise<void>((r) => this.#p.time.after(500, () => r()));
    }
    c.asking = false;
    return false;
  }

  /** Null: nobody is behind the door, or who was has died over it. */
  async #answer(node: string, vm: string): Promise<Verdict | null> {
    const door = this.#doors.get(node);
    if (door === undefined) return null;
    let over = false;
    const gone = new Promise<null>((resolve) => {
      const look = (): void => {
        if (over) return;
        if (!door.alive() || this.#doors.get(node) !== door) resolve(null);
        else this.#p.time.after(500, look);
      };
      look();
    });
    return Promise.race([door.ask(vm), gone]).finally(() => (over = true));
  }

  /** It goes on without its peer: another history from here. */
  #alone(c: Copy): void {
    c.frozen = false;
    c.sure = true;
    if (c.lost) this.#p.report('safety 3', 'a node without its drive writes on without the other copy');
    c.parent ??= c.history;
    c.history = this.#p.uuid();
  }

  #write(pair: Pair): void {
    const writers = [...pair.copies].filter(
      ([node, c]) => c.primary && !c.frozen && this.#p.executes(node, pair.vm),
    );
    if (writers.length > 1) this.#p.report('P1', `two machines write to the disk of VM ${pair.vm}`);
    for (const [node, c] of pair.copies) {
      if (!c.primary || c.frozen || !this.#p.executes(node, pair.vm)) continue;
      if (c.whole && c.data < pair.told)
        this.#p.report(
          'P2',
          `VM ${pair.vm} goes on on ${node} with ${c.data} of ${pair.told} writes that its guest was told of`,
        );
      // Half copied and alone it reads nothing and writes nothing.
      if (!c.whole && !linked(pair, node)) continue;
      const n = Math.max(c.data, pair.told) + 1;
      const [, peer] = this.#other(node, pair);
      if (!c.lost && c.whole) c.data = n;
      if (linked(pair, node) && peer.whole) peer.data = n;
      pair.told = n;
    }
  }

  /** What the agent of a node drives. */
  driver(node: string, process: Process, env: () => AgentEnv): Replication {
    const seen = (pair: Pair, c: Copy): PairSeen => {
      const [other, peer] = this.#other(node, pair);
      const here = c.lost ? 'Diskless' : !c.whole ? 'Inconsistent' : c.sure ? 'UpToDate' : 'Consistent';
      const up = linked(pair, node);
      const there = !up ? 'DUnknown' : peer.lost ? 'Diskless' : peer.whole ? 'UpToDate' : 'Inconsistent';
      const syncing = pair.sync?.to === other ? 'SyncSource' : 'SyncTarget';
      return {
        vm: pair.vm,
        role: c.primary ? 'Primary' : 'Secondary',
        peerRole: up ? (peer.primary ? 'Primary' : 'Secondary') : 'Unknown',
        connection: up ? 'Connected' : c.refused ? 'StandAlone' : 'Connecting',
        suspended: c.frozen,
        volumes: [
          {
            volume: 0,
            minor: pair.minor,
            here,
            there,
            replication: !up ? 'Off' : pair.sync === null ? 'Established' : syncing,
            sizeBytes: 2 ** 30,
            behindBytes: pair.sync === null ? 0 : 2 ** 20,
          },
        ],
      };
    };
    const mine = (vm: string): Copy => {
      const c = this.#copy(node, vm);
      if (!c.open) throw new FlotillaError('tool-failed', `${vm} is not open here`, { hint: '' });
      return c;
    };
    const wait = (ms: number): Promise<void> => process.clock.sleep(ms);
    const no = (): never => {
      throw new Error('the simulated copies do not know this call');
    };
    const refused = (why: string): FlotillaError =>
      new FlotillaError('replica-refused', 'The copy here may not be written to', { hint: why });
    const look = async (): ReturnType<Replication['observe']> => {
      const pairs = new Map<string, PairSeen>();
      for (const pair of this.#pairs.values()) {
        const c = pair.copies.get(node);
        if (c?.open === true) pairs.set(pair.vm, seen(pair, c));
      }
      await wait(10);
      return { pairs, unreadable: [] };
    };
    const replication: Replication = {
      usable: async () => ({ ok: true }),
      watch: (changed, signal) => watchPairs(look, process.clock, changed, () => signal.aborted),
      observe: look,
      make: async (r) => {
        await wait(50);
        const pair = this.#pair(r.vm);
        if (pair.copies.get(node)?.whole === true)
          this.#p.report('P3', `the copy of VM ${r.vm} on ${node}, which is whole, is made anew`);
        pair.copies.set(node, closed(this.#p.uuid(), otherNode(r, node)));
      },
      adjust: async (r: Replica) => {
        await wait(50);
        const c = this.#copy(node, r.vm);
        if (c.open && c.two) await replication.allowTwoPrimaries(r.vm, false);
        if (c.open && c.madeFrom === sides(r)) return;
        if (linked(this.#pair(r.vm), node)) throw new Error(`the copies of ${r.vm} are still connected`);
        Object.assign(c, { open: true, madeFrom: sides(r), peer: otherNode(r, node), refused: false });
      },
      skipFirstSync: no,
      closeVolume: no,
      resize: no,
      promote: async (vm) => {
        await wait(20);
        const c = mine(vm);
        const pair = this.#pair(vm);
        const [other, peer] = this.#other(node, pair);
        const up = linked(pair, node);
        if (up && peer.primary && !(c.two && peer.two)) throw refused(`${other} has it open`);
        if (!c.whole && !up) throw refused('it is half copied');
        if (!up) {
          if (!(await this.#ask(pair, node, c))) throw refused('the ledger does not say so');
          this.#alone(c);
        }
        c.primary = true;
      },
      demote: async (vm) => {
        await wait(20);
        const c = mine(vm);
        if (this.#p.holds(node, vm)) throw new FlotillaError('in-use', 'held open', { hint: '' });
        c.primary = false;
        c.frozen = false;
      },
      allowTwoPrimaries: async (vm, on) => {
        await wait(20);
        const c = mine(vm);
        const pair = this.#pair(vm);
        const [other, peer] = this.#other(node, pair);
        if (!on && linked(pair, node) && c.primary && peer.primary)
          throw new FlotillaError('tool-failed', `${other} writes, too`, { hint: '' });
        if (c.refused) return;
        c.two = on;
        // The kernels tell each other.
        if (linked(pair, node)) peer.two = on;
      },
      disconnect: async (vm) => {
        await wait(20);
        this.#goodbye(this.#pair(vm), node, mine(vm));
      },
      reconnects: async (r) => {
        await wait(20);
        const c = this.#copy(node, r.vm);
        return c.open && c.madeFrom !== sides(r);
      },
      cutOff: async (vm) => {
        await wait(20);
        mine(vm).refused = true;
        this.#link(this.#pair(vm));
      },
      connect: async (vm, o) => {
        await wait(20);
        const c = mine(vm);
        // As its file says.
        if (c.refused) c.two = false;
        Object.assign(c, { refused: false, discards: o.discardMine });
      },
      resume: async (minors) => {
        await wait(10);
        for (const pair of this.#pairs.values()) {
          const c = pair.copies.get(node);
          if (c === undefined || !minors.includes(pair.minor) || !c.frozen) continue;
          if (this.#p.executes(node, pair.vm) === false) c.data++;
          this.#alone(c);
        }
      },
      down: async (vm) => {
        await wait(20);
        Object.assign(this.#copy(node, vm), { open: false, primary: false, frozen: false });
      },
    };
    this.#doors.set(node, {
      alive: () => process.alive,
      ask: (vm) =>
        new Promise<Verdict>((resolve) => {
          process.enter(() => void new FenceJudge({ ...env(), replication }).judge(vm).then(resolve));
        }),
    });
    return replication;
  }
}

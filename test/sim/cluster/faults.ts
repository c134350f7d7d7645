import { liveKey } from '../../../core/wire/key-names.js';
import type { World } from './world.js';
import { bootMs, type ClusterNode } from './node.js';
import type { Rng } from './rng.js';

/** What can go wrong. Each may hit at any time, together with any other. */
export const faultKinds = [
  'agent-killed',
  'agent-dies-in-act',
  'agent-stalls',
  'keeper-killed',
  'keeper-dies-in-act',
  'keeper-stalls',
  'keeper-down',
  'power-loss',
  'reboot',
  'node-stalls',
  'partition',
  'one-way-cut',
  'storage-cut',
  'slow-messages',
  'slow-ledger',
  'lost-messages',
  'late-messages',
  'silent-watches',
  'deposed-leader',
  'leader-dies',
  'no-quorum',
  'lease-ends-early',
  'disk-error',
  'watchdog-late',
  'clock-jump',
  'upgrade',
  'schema-upgrade',
  'libvirt-down',
  'broker-down',
  'guest-dies',
  'does-not-freeze',
  'does-not-die',
  'cannot-start',
] as const;
export type FaultKind = (typeof faultKinds)[number];

/** Faults that neither keep a standby from its work nor cost it time. */
const harmless: ReadonlySet<FaultKind> = new Set(['clock-jump', 'broker-down']);
/** Faults that may take the node's etcd along, by its reset at the latest. */
const takesNode: ReadonlySet<FaultKind> = new Set([
  'keeper-stalls',
  'keeper-down',
  'power-loss',
  'reboot',
  'node-stalls',
  'does-not-freeze',
  'does-not-die',
]);
/** Faults that keep nobody from taking its VM, nor an owner that is back from starting it. */
const passing: ReadonlySet<FaultKind> = new Set(['agent-killed', 'upgrade', 'schema-upgrade', 'guest-dies']);
/** Failures of one node that its standbys must make good. */
const single: ReadonlySet<FaultKind> = new Set([
  'power-loss',
  'reboot',
  'partition',
  'one-way-cut',
  'node-stalls',
  'keeper-stalls',
  'keeper-down',
]);

/** What a fault is to a VM: nothing, the failure its standby makes good, or more than that. */
export function meaningOf(
  f: Trouble,
  own: { readonly owner: string; readonly standby: string | null },
  voters: readonly string[],
): 'nothing' | 'failure' | 'more' {
  if (harmless.has(f.kind)) return 'nothing';
  const [node] = f.nodes;
  if (node === undefined || node === own.standby) return 'more';
  if (single.has(f.kind) && node === own.owner) return 'failure';
  if (f.kind === 'partition' || f.kind === 'one-way-cut') return 'more';
  if (node === own.owner) return passing.has(f.kind) ? 'nothing' : 'more';
  return takesNode.has(f.kind) && voters.includes(node) ? 'more' : 'nothing';
}

/** A fault that was made. */
export interface Trouble {
  readonly kind: FaultKind;
  readonly fromMs: number;
  /** While it lasts: Infinity until it is known. */
  untilMs: number;
  /** Whom it hits; empty: everybody. */
  readonly nodes: readonly string[];
  /** Who was well when it began, and had been for a while. */
  readonly well: ReadonlySet<string>;
}

/** How a fault is made. @returns what ends it; null: it ends by itself at once */
type Make = (w: World, n: ClusterNode, rng: Rng) => (() => void) | null;

/** How long it lasts, ms: from and to. */
interface Fault {
  readonly lastsMs: readonly [number, number];
  /** It hits the ledger, not a node. */
  readonly global?: true;
  readonly make: Make;
}

const brief = [0, 0] as const;
const some = [500, 25_000] as const;

const faults: Readonly<Record<FaultKind, Fault>> = {
  'agent-killed': { lastsMs: brief, make: (_w, n) => (n.kill('agent'), null) },
  'agent-dies-in-act': {
    lastsMs: brief,
    make: (_w, n, rng) => (n.dieAt('agent', rng.below(12), rng.pick(['before', 'after'])), null),
  },
  'agent-stalls': {
    lastsMs: some,
    make: (_w, n) => {
      n.stall('agent', 60_000);
      const { agent } = n;
      return () => n.goOn('agent', agent);
    },
  },
  'keeper-killed': { lastsMs: brief, make: (_w, n) => (n.kill('keeper'), null) },
  'keeper-dies-in-act': {
    lastsMs: brief,
    make: (_w, n, rng) => (n.dieAt('keeper', rng.below(12), rng.pick(['before', 'after'])), null),
  },
  'keeper-stalls': {
    lastsMs: [300, 12_000],
    make: (_w, n) => {
      n.stall('keeper', 60_000);
      const { keeper } = n;
      return () => n.goOn('keeper', keeper);
    },
  },
  'keeper-down': {
    lastsMs: [1_000, 15_000],
    make: (_w, n) => {
      n.kill('keeper', false);
      return () => {
        if (n.host.powered && n.keeper === null) n.startKeeper();
      };
    },
  },
  'power-loss': {
    lastsMs: [bootMs, 40_000],
    make: (_w, n) => {
      n.powerLoss();
      return () => n.powerOn();
    },
  },
  reboot: {
    lastsMs: [bootMs + 3_000, 30_000],
    make: (w, n, rng) => {
      const { boots } = n.host;
      void n.shutDown(rng.between(0, 2_000));
      // Whatever hangs on the way down, its power goes; not that of the next boot.
      w.time.after(3_000, () => {
        if (n.host.boots === boots) n.powerLoss();
      });
      return () => n.powerOn();
    },
  },
  'node-stalls': {
    lastsMs: [500, 12_000],
    make: (_w, n) => {
      n.stallAll(60_000);
      const { boots } = n.host;
      return () => n.goOnAll(boots);
    },
  },
  partition: {
    lastsMs: some,
    make: (w, n, rng) => {
      const others = w.net.nodes.filter((x) => x !== n.id);
      const withIt = rng.chance(0.3) ? others.filter(() => rng.chance(0.4)) : [];
      return w.net.part(
        [n.id, ...withIt],
        others.filter((x) => !withIt.includes(x)),
      );
    },
  },
  'one-way-cut': {
    lastsMs: some,
    make: (w, n, rng) => {
      if (rng.chance(0.6)) return w.net.isolate(n.id, rng.pick(['in', 'out']));
      const to = rng.pick(w.net.nodes.filter((x) => x !== n.id));
      return w.net.cut(n.id, to);
    },
  },
  'storage-cut': { lastsMs: some, make: (w, n) => w.pool.unreachable.add(n.id) },
  'slow-messages': {
    lastsMs: some,
    global: true,
    make: (w, _n, rng) => w.voters.addWeather({ slowMs: rng.pick([100, 400, 900, 2_000]) }),
  },
  'slow-ledger': {
    lastsMs: some,
    global: true,
    // Each renewal is two calls: now in time to pet, now too late.
    make: (w, _n, rng) => w.voters.addWeather({ longMs: rng.between(80, 300), slowMs: 90 }),
  },
  'lost-messages': {
    lastsMs: some,
    global: true,
    make: (w, _n, rng) => {
      const p = rng.pick([0.05, 0.3, 0.6]);
      return w.voters.addWeather({ lostAnswers: p, lostCalls: rng.pick([0, p]) });
    },
  },
  'late-messages': {
    lastsMs: some,
    global: true,
    make: (w, _n, rng) => w.voters.addWeather({ late: rng.pick([0.1, 0.4]) }),
  },
  'silent-watches': { lastsMs: some, global: true, make: (w) => w.voters.addWeather({ silent: true }) },
  'deposed-leader': {
    lastsMs: some,
    global: true,
    make: (w) => {
      const { leader, voters } = w.voters;
      const others = voters.filter((v) => v !== leader);
      // Its clients still reach it: they are told that all is well, for a while.
      return leader === null ? () => undefined : w.net.part([leader], others);
    },
  },
  'leader-dies': {
    lastsMs: some,
    global: true,
    make: (w) => (w.voters.leader === null ? () => undefined : w.voters.stop(w.voters.leader)),
  },
  'no-quorum': {
    lastsMs: some,
    global: true,
    make: (w) => {
      const { voters } = w.voters;
      const back = voters.slice(0, Math.floor(voters.length / 2) + 1).map((v) => w.voters.stop(v));
      return () => {
        for (const b of back) b();
      };
    },
  },
  'lease-ends-early': {
    lastsMs: brief,
    make: (w, n) => {
      const { store } = w.voters;
      const lease = store.peek(liveKey(n.id))?.lease;
      if (lease === undefined) return null;
      w.earlyExpiryMs = w.time.nowMs;
      store.expireNow(lease);
      return null;
    },
  },
  'disk-error': {
    lastsMs: some,
    make: (_w, n) => {
      n.host.diskFault = true;
      return () => (n.host.diskFault = false);
    },
  },
  'watchdog-late': {
    lastsMs: [5_000, 40_000],
    make: (_w, n, rng) => {
      // Within the second that the rule F >= W + D + 1 s leaves for it.
      n.host.biteLateMs = rng.between(100, 900);
      return () => (n.host.biteLateMs = 0);
    },
  },
  'clock-jump': {
    lastsMs: brief,
    make: (_w, n, rng) => {
      n.host.wallOffsetMs += rng.pick([-86_400_000, -3_600_000, -5_000, 5_000, 3_600_000, 86_400_000]);
      return null;
    },
  },
  upgrade: {
    lastsMs: brief,
    make: (_w, n, rng) => {
      void n.upgrade(rng.pick(['agent', 'keeper']), '2');
      return null;
    },
  },
  'schema-upgrade': {
    lastsMs: brief,
    make: (_w, n) => {
      n.nextSchema = true;
      void n.upgrade('agent', '3');
      return null;
    },
  },
  'libvirt-down': {
    lastsMs: some,
    make: (_w, n) => {
      n.host.libvirt.up = false;
      return () => (n.host.libvirt.up = true);
    },
  },
  'broker-down': {
    lastsMs: some,
    make: (w, n) => {
      w.hub.stopBroker(n.id);
      return () => {
        if (n.host.powered) w.hub.startBroker(n.id);
      };
    },
  },
  'guest-dies': {
    lastsMs: brief,
    make: (_w, n, rng) => {
      const here = n.host.machines().filter((m) => !n.host.standsStill(m.vm));
      if (here.length > 0) n.host.libvirt.die(rng.pick(here).vm, rng.pick(['crashed', 'shutdown']));
      return null;
    },
  },
  'does-not-freeze': {
    lastsMs: some,
    make: (_w, n) => {
      n.host.freezeFault = 'a thread runs on';
      return () => (n.host.freezeFault = null);
    },
  },
  'does-not-die': {
    lastsMs: [1_000, 80_000],
    make: (_w, n) => {
      n.host.killFault = true;
      return () => (n.host.killFault = false);
    },
  },
  'cannot-start': {
    lastsMs: [2_000, 40_000],
    make: (_w, n) => {
      n.host.startFault = 'cannot set up guest memory: Cannot allocate memory';
      return () => (n.host.startFault = null);
    },
  },
};

/** A fault begins. */
export function noteFault(w: World, kind: FaultKind, nodes: readonly string[], lastsMs: number): Trouble {
  const { nowMs } = w.time;
  const trouble = { kind, fromMs: nowMs, untilMs: nowMs + lastsMs, nodes, well: w.checks.well() };
  w.faults.push(trouble);
  w.checks.troubled(trouble);
  return trouble;
}

/** Makes a fault. @param lastsMs - by default by chance */
export function makeFault(w: World, kind: FaultKind, node: string, rng: Rng, lastsMs?: number): Trouble {
  const f = faults[kind];
  const ms = lastsMs ?? rng.between(...f.lastsMs);
  w.say(
    `--- ${kind}${f.global === true ? '' : ` ${node}`}${ms > 0 ? ` for ${(ms / 1000).toFixed(1)} s` : ''}`,
  );
  const trouble = noteFault(w, kind, f.global === true ? [] : [node], ms);
  const end = f.make(w, w.node(node), rng);
  if (end !== null)
    w.time.after(ms, () => {
      w.say(`--- end of ${kind}${f.global === true ? '' : ` ${node}`}`);
      end();
    });
  return trouble;
}

/** Ends all that lasts, and switches everything on. */
export function mendAll(w: World): void {
  w.say('--- all is mended');
  for (const f of w.faults) f.untilMs = Math.min(f.untilMs, w.time.nowMs);
  w.pool.unreachable.clear();
  w.net.heal();
  w.bmcAnswers = true;
  w.mended = true;
  for (const n of w.nodes.values()) {
    n.host.diskFault = false;
    n.host.freezeFault = null;
    n.host.killFault = false;
    n.host.startFault = null;
    n.host.biteLateMs = 0;
    n.host.libvirt.up = true;
    n.goOn('agent', n.agent);
    n.goOn('keeper', n.keeper);
    n.goOnAll(n.host.boots);
    n.powerOn();
    if (n.keeper === null) n.startKeeper();
    if (n.agent === null) n.startAgent();
    w.hub.startBroker(n.id);
  }
  w.voters.mend();
}

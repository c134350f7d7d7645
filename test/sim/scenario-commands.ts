import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { World } from './cluster/world.js';

/** Something done to a cluster. */
export type Command = (w: World) => void;

/** How to bring the etcd of a node back, by node; one scenario runs at a time. */
const etcdStops = new Map<string, () => void>();

/** What can be said behind `at … s:` and `before:`, and what it does. */
const words: readonly (readonly [RegExp, (w: World, f: readonly string[]) => void])[] = [
  [/^power loss of (.+)$/, (w, [who]) => each(w, who, (n) => w.node(n).powerLoss())],
  [/^(.+) boots?$/, (w, [who]) => each(w, who, (n) => w.node(n).powerOn())],
  [/^(n\d) is cut off$/, (w, [n = '']) => void w.net.isolate(n)],
  [/^(n\d) hears nobody$/, (w, [n = '']) => void w.net.isolate(n, 'in')],
  [/^nobody hears (n\d)$/, (w, [n = '']) => void w.net.isolate(n, 'out')],
  [
    /^cut between (n\d) and (n\d)$/,
    (w, [a = '', b = '']) => {
      w.net.cut(a, b);
      w.net.cut(b, a);
    },
  ],
  [/^the copies lose sight of each other$/, (w) => void (w.storage.cut = true)],
  [/^the copies see each other again$/, (w) => void (w.storage.cut = false)],
  [/^copies have a network of their own$/, (w) => void (w.storage.own = true)],
  [
    /^user gives (\w+) the standby (n\d)( unprotected meanwhile)?$/,
    (w, [vm = '', to = '', un]) => void w.standby(id(w, vm), to, un !== undefined),
  ],
  [
    /^the copy of (\w+) on (n\d) is written apart, and the ledger forgets which is good$/,
    (w, [vm = '', n = '']) => w.splitBrain(id(w, vm), n),
  ],
  [/^user throws away what (n\d) has of (\w+)$/, (w, [n = '', vm = '']) => void w.discard(id(w, vm), n)],
  [/^a lost standby is replaced after (\d+) min$/, (w, [min]) => w.replaceAfter(Number(min))],
  [/^(n\d) is removed from the cluster$/, (w, [n = '']) => w.removeNode(n)],
  [/^(n\d) has a storage address$/, (w, [n = '']) => w.storageAddress(n)],
  [/^the network is whole again$/, (w) => w.net.heal()],
  [/^each call of the ledger takes (\d+) to (\d+) ms$/, (w, [a, b]) => slowLedger(w, Number(a), Number(b))],
  [/^the ledger is quick again$/, (w) => w.voters.mend()],
  [/^storage of (n\d) is away$/, (w, [n = '']) => void w.pool.unreachable.add(n)],
  [/^storage is back$/, (w) => w.pool.unreachable.clear()],
  [/^etcd of (.+) stops$/, (w, [who]) => each(w, who, (n) => void etcdStops.set(n, w.voters.stop(n)))],
  [/^etcd of (.+) starts$/, (w, [who]) => each(w, who, (n) => etcdStops.get(n)?.())],
  [
    /^(agent|keeper) of (.+) is killed$/,
    (w, [what, who]) => each(w, who, (n) => w.node(n).kill(program(what))),
  ],
  [
    /^(agent|keeper) of (n\d) hangs for ([\d.]+) s$/,
    (w, [what, n = '', s]) => w.node(n).stall(program(what), Number(s) * 1000),
  ],
  [
    /^agent of (n\d) dies (before|after) act (\d+) of its next takeover$/,
    (w, [n = '', when, k]) => dieInTakeover(w, n, when === 'before' ? 'before' : 'after', Number(k)),
  ],
  [/^broker of (n\d) dies$/, (w, [n = '']) => w.hub.stopBroker(n)],
  [/^broker of (n\d) starts$/, (w, [n = '']) => w.hub.startBroker(n)],
  [
    /^clock of (.+) jumps by (-?\d+) s$/,
    (w, [who, s]) => each(w, who, (n) => (w.node(n).host.wallOffsetMs += Number(s) * 1000)),
  ],
  [/^the lease of (n\d) ends too early$/, (w, [n = '']) => endLease(w, n)],
  [/^the lock of (\w+) is held elsewhere$/, (w, [vm = '']) => void w.pool.locks.set(id(w, vm), 'elsewhere')],
  [/^the lock of (\w+) is let go$/, (w, [vm = '']) => void w.pool.locks.delete(id(w, vm))],
  [
    /^(n\d) has no watchdog$/,
    (w, [n = '']) => {
      const { watchdog } = w.node(n).host;
      const info = { ...watchdog.info(), kind: 'none' as const, timeoutMs: null };
      Object.assign(watchdog, { info: () => info });
    },
  ],
  [
    /^(n\d) cannot start a machine: (.+)$/,
    (w, [n = '', why = '']) => {
      w.node(n).host.startFault = why;
    },
  ],
  [/^(n\d) can start machines again$/, (w, [n = '']) => void (w.node(n).host.startFault = null)],
  [
    /^(\w+) crashes$/,
    (w, [vm = '']) => {
      const v = id(w, vm);
      const on = w.runsOn(v)[0];
      if (on === undefined) throw new Error(`${vm} does not run`);
      w.node(on).host.libvirt.die(v, 'crashed');
    },
  ],
  [
    /^user (starts|stops) (\w+)$/,
    (w, [what, vm = '']) => w.action(what === 'starts' ? 'start' : 'stop', id(w, vm)),
  ],
  [/^user forces (\w+) off$/, (w, [vm = '']) => w.action('force-stop', id(w, vm))],
  [/^(\w+) came back (\d+) times in the last hour$/, (w, [vm = '', times]) => cameBack(w, vm, Number(times))],
  [
    /^failovers are held$/,
    (w) => {
      w.policy({ hold: true });
    },
  ],
  [
    /^failovers are released$/,
    (w) => {
      w.policy({ hold: false });
    },
  ],
  [/^HA is paused$/, (w) => w.policy({ paused: true })],
  [/^HA goes on$/, (w) => w.policy({ paused: false })],
  [/^a person confirms that (n\d) is off$/, (w, [n = '']) => confirmOff(w, n)],
  [/^(n\d) goes into maintenance$/, (w, [n = '']) => w.desired(n, 'maintenance')],
];

/** @throws Error `not understood` */
export function commandOf(text: string): Command {
  for (const [re, does] of words) {
    const m = re.exec(text);
    if (m !== null) return (w) => does(w, m.slice(1));
  }
  throw new Error(`not understood: ${text}`);
}

const program = (what: string | undefined): 'agent' | 'keeper' => (what === 'agent' ? 'agent' : 'keeper');

/** `n1 and n2`, `all`. */
function each(w: World, who: string | undefined, does: (node: string) => void): void {
  const nodes = who === 'all' || who === undefined ? [...w.nodes.keys()] : who.split(' and ');
  for (const n of nodes) does(w.node(n).id);
}

function id(w: World, vm: string): string {
  const found = w.vms.get(vm);
  if (found === undefined) throw new Error(`there is no VM ${vm}`);
  return found;
}

/** Acts are counted from the transaction that makes the node an owner: it is act 0. */
function dieInTakeover(w: World, node: string, when: 'before' | 'after', act: number): void {
  const { checks } = w;
  const before = checks.onTransition;
  checks.onTransition = (what, vm) => {
    before(what, vm);
    if ((what !== 'fail-over' && what !== 'fail-over-any') || w.own(vm)?.owner !== node) return;
    checks.onTransition = before;
    const { agent } = w.node(node);
    if (agent === null) return;
    agent.death = { at: agent.acts - 1 + act, when };
  };
}

/** There and back, of which the usual way is 1 to 6 ms each. */
function slowLedger(w: World, leastMs: number, mostMs: number): void {
  w.voters.mend();
  w.voters.addWeather({ longMs: leastMs / 2 - 1, slowMs: (mostMs - leastMs - 10) / 2 });
}

/** As a leader does that hung in fsync and wakes up. @see gossip-consensus 2.2, trap 3 */
function endLease(w: World, node: string): void {
  const lease = w.node(node).host.tmpfs?.lease;
  if (lease === undefined || lease === null) throw new Error(`${node} has no lease`);
  w.earlyExpiryMs = w.time.nowMs;
  w.voters.store.expireNow(lease);
}

function cameBack(w: World, vm: string, times: number): void {
  const own = w.own(id(w, vm));
  if (own === null) throw new Error(`${vm} has no owner`);
  const failoversMs = Array.from({ length: times }, (_, i) => w.wallMs - 60_000 * (times - i));
  w.voters.store.poke(kinds.vmOwn.key(id(w, vm)), writeRecord(kinds.vmOwn, { ...own, failoversMs }));
}

/** As `flotilla node confirm-off` does. */
function confirmOff(w: World, node: string): void {
  if (w.node(node).host.powered) throw new Error(`${node} is not off`);
  const seenRevision = String(w.voters.store.peek(kinds.seen.key(node))?.modRevision ?? 0n);
  w.proven.add(node);
  w.voters.store.poke(
    kinds.fenced.key(node),
    writeRecord(kinds.fenced, { node, seenRevision, how: 'person', by: 'somebody', atMs: 1_700_000_000_000 }),
  );
}

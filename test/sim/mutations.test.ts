import t from 'tap';
import type { KeeperEnv } from '../../agent/keeper/env.js';
import type { Ledger, LedgerEntry } from '../../agent/ledger/ledger.js';
import { ledger as kinds, policyKey } from '../../core/wire/ledger-keys.js';
import { World, type WorldOptions } from './cluster/world.js';

/**
 * Single safety rules switched off, in the world or in what a process is told: the same bad night must then break a
 * promise, and must not where the rule holds. A checker that no longer bites fails here.
 */
interface Mutation {
  /** The rule, as it stands while it holds. */
  readonly rule: string;
  /** The promise that must be seen broken. */
  readonly breaks: RegExp;
  readonly off: Partial<WorldOptions>;
  /** What else of the world the rule is in. */
  readonly bend?: (w: World) => void;
  readonly night: (w: World, vm: string) => Promise<void>;
}

/** A ledger whose entries read differently. */
function told(l: Ledger, tell: (e: LedgerEntry) => LedgerEntry | null): Ledger {
  const entry = (e: LedgerEntry): LedgerEntry[] => {
    const x = tell(e);
    return x === null ? [] : [x];
  };
  return {
    ...proxied(l),
    get: async (key) => {
      const e = await l.get(key);
      return e === null ? null : tell(e);
    },
    list: async (prefix) => {
      const { entries, revision } = await l.list(prefix);
      return { entries: entries.flatMap(entry), revision };
    },
  };
}

const proxied = (l: Ledger): Ledger => ({
  get: (key) => l.get(key),
  list: (prefix) => l.list(prefix),
  txn: (compare, writes) => l.txn(compare, writes),
  watch: (prefix, wake) => l.watch(prefix, wake),
  grantLease: (ttlS) => l.grantLease(ttlS),
  keepAlive: (lease) => l.keepAlive(lease),
  revokeLease: (lease) => l.revokeLease(lease),
  close: () => l.close(),
});

/** Every ownership record with another fence. */
const fence =
  (patch: { armed?: boolean; waitMs?: number }) =>
  (e: LedgerEntry): LedgerEntry => {
    if (kinds.vmOwn.idOf(e.key) === null) return e;
    const own = JSON.parse(e.value) as { fence: object };
    return { ...e, value: JSON.stringify({ ...own, fence: { ...own.fence, ...patch } }) };
  };

/** The keeper reads ownership records that say something else; null: as they are. */
const owners =
  (say: (text: string | null, node: string) => string | null) =>
  (l: KeeperEnv['ledger'], node: string): KeeperEnv['ledger'] => ({
    txn: (c, w) => l.txn(c, w),
    grantLease: (ttlS) => l.grantLease(ttlS),
    keepAlive: (id) => l.keepAlive(id),
    revokeLease: (id) => l.revokeLease(id),
    read: async (keys) => {
      const at = new Map(await l.read(keys));
      for (const key of keys) {
        if (kinds.vmOwn.idOf(key) === null) continue;
        const e = at.get(key);
        const text = say(e?.value ?? null, node);
        if (text !== null)
          at.set(key, { key, createRevision: 1n, modRevision: 1n, lease: '0', ...e, value: text });
      }
      return at;
    },
  });

const mutations: readonly Mutation[] = [
  {
    rule: 'R4: the standby waits longer than the watchdog',
    breaks: /^P1/,
    // The owner itself must not find its record wrong: it would write it again and again.
    off: {
      agentTiming: { fenceWaitMs: 0 },
      agentLedger: (l, node) => (node === 'n1' ? l : told(l, fence({ waitMs: 0 }))),
    },
    night: async (w) => {
      w.node('n1').stall('keeper', 60_000);
      await w.pass(40_000);
    },
  },
  {
    rule: 'safety 1: only an armed owner is failed over without proof',
    breaks: /^(P1|safety 1)/,
    off: {
      agentLedger: (l, node) =>
        node === 'n1' ? l : told(l, (e) => (e.key === policyKey ? null : fence({ armed: true })(e))),
    },
    night: async (w) => {
      w.policy({ paused: true });
      await w.pass(5_000);
      w.net.isolate('n1');
      await w.pass(30_000);
    },
  },
  {
    rule: 'the failover compares that the owner was not back since the wait began (`seen`)',
    breaks: /^P1/,
    off: {
      agentLedger: (l) => ({
        ...told(l, (e) => (e.key.startsWith('/flotilla/seen/') ? null : e)),
        txn: (compare, writes) =>
          l.txn(
            compare.filter((c) => !c.key.startsWith('/flotilla/seen/')),
            writes,
          ),
      }),
    },
    night: async (w) => {
      const away = w.net.isolate('n1');
      await w.until('its live key is gone', () => w.voters.store.peek(kinds.live.key('n1')) === null);
      await w.pass(1_000);
      // Nobody looks while it is back, and then hangs.
      for (const n of ['n2', 'n3']) w.node(n).stall('agent', 8_000);
      away();
      await w.until('n1 is back', () => w.node('n1').keeperState?.mode === 'run');
      await w.pass(3_500);
      w.node('n1').stall('keeper', 60_000);
      await w.pass(40_000);
    },
  },
  {
    rule: 'R3: nothing starts by itself after a boot',
    breaks: /^P1/,
    off: { rules: { noAutostart: false } },
    night: async (w, vm) => {
      w.node('n1').powerLoss();
      await w.until('another node runs it', () => w.runsOn(vm).some((n) => n !== 'n1'));
      w.node('n1').powerOn();
      await w.pass(20_000);
    },
  },
  {
    rule: 'what begins in a frozen slice is born frozen',
    breaks: /^P1/,
    off: { rules: { bornFrozen: false } },
    night: async (w) => {
      const late = w.createVm('late', 'n1', { power: 'stopped' });
      await w.pass(8_000);
      w.node('n1').host.libvirt.startMs = () => 4_000;
      w.action('start', late);
      await w.until('its start is decided', () => w.own(late)?.state === 'running');
      w.node('n1').host.rules.takeoversRead = false;
      w.net.isolate('n1');
      await w.pass(40_000);
    },
  },
  {
    rule: 'THAW reads the owners before anything goes on',
    breaks: /^P1/,
    off: {
      keeperLedger: owners((text, node) =>
        text === null ? null : JSON.stringify({ ...(JSON.parse(text) as object), owner: node }),
      ),
    },
    bend: (w) => (w.node('n1').host.rules.takeoversRead = false),
    night: async (w) => {
      w.net.isolate('n1');
      await w.pass(20_000);
      w.net.heal();
      await w.pass(20_000);
    },
  },
  {
    rule: 'safety 10: destroyed only on proof',
    breaks: /^safety 10/,
    off: { keeperLedger: owners(() => JSON.stringify({ owner: 'n9', gen: 999_999 })) },
    night: async (w) => {
      const back = w.net.isolate('n1');
      await w.pass(4_000);
      back();
      await w.pass(10_000);
    },
  },
  {
    rule: 'safety 7: frozen means seen to be frozen',
    breaks: /^P1/,
    off: {},
    bend: (w) => {
      const { freezer } = w.node('n1').host;
      Object.assign(freezer, { freeze: async () => Promise.resolve([]) });
      w.node('n1').host.rules.takeoversRead = false;
    },
    night: async (w) => {
      w.net.isolate('n1');
      await w.pass(30_000);
    },
  },
];

async function run(m: Mutation, off: boolean): Promise<{ seen: string[]; lines: readonly string[] }> {
  const w = new World({ seed: 99, nodes: 3, log: true, ...(off ? m.off : {}) });
  if (off) m.bend?.(w);
  w.boot();
  const vm = w.createVm('web', 'n1');
  await w.until('it runs and is protected', () => w.runsOn(vm).length === 1 && w.own(vm)?.standby !== null);
  await w.pass(12_000);
  await m.night(w, vm);
  return { seen: w.checks.violations.map((v) => `${v.promise}: ${v.text}`), lines: w.lines };
}

for (const m of mutations) {
  await t.test(m.rule, async (t) => {
    const holds = await run(m, false);
    if (!t.same(holds.seen, [], 'while the rule holds nothing is broken')) t.comment(holds.lines.join('\n'));
    const broken = await run(m, true);
    const caught = broken.seen.some((v) => m.breaks.test(v));
    if (!t.ok(caught, `without it: ${broken.seen[0] ?? 'nothing was seen'}`))
      t.comment(broken.lines.join('\n'));
  });
}

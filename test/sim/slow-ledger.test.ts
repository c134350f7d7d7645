import t from 'tap';
import type { KeeperEnv } from '../../agent/keeper/env.js';
import { World } from './cluster/world.js';

/**
 * A ledger that answers, but so late that no renewal may pet: HA VMs stand still as without one, and no watchdog
 * resets a node for it. Only the keepers are kept waiting here: agents have longer deadlines.
 */
class SlowWorld {
  readonly world: World;
  readonly vm: string;
  /** What each answer takes longer, by node, ms. */
  readonly #slowMs = new Map<string, number>();
  #end: () => void = () => undefined;

  constructor(seed: number) {
    this.world = new World({
      seed,
      nodes: 3,
      log: true,
      keeperLedger: (l, node) => this.#late(l, node),
    });
    this.world.boot();
    this.vm = this.world.createVm('web', 'n1');
  }

  async protected(): Promise<void> {
    const { world: w, vm } = this;
    await w.until('it runs and is protected', () => w.runsOn(vm).length === 1 && w.own(vm)?.standby !== null);
    await w.pass(12_000);
  }

  /** The ledger is slow to these; and not well, as checkers see it. */
  slow(nodes: readonly string[], ms: number): void {
    for (const n of nodes) this.#slowMs.set(n, ms);
    this.#end = this.world.voters.addWeather({ slowMs: 200 });
  }

  quick(): void {
    this.#slowMs.clear();
    this.#end();
  }

  get bites(): number {
    return [...this.world.nodes.values()].reduce((n, x) => n + x.host.bites, 0);
  }

  #late(l: KeeperEnv['ledger'], node: string): KeeperEnv['ledger'] {
    const late = async <T>(call: Promise<T>): Promise<T> => {
      const answer = await call;
      await this.world.voters.after(this.#slowMs.get(node) ?? 0);
      return answer;
    };
    return {
      read: (keys) => late(l.read(keys)),
      txn: (compare, writes) => late(l.txn(compare, writes)),
      grantLease: (ttlS) => late(l.grantLease(ttlS)),
      keepAlive: (lease) => late(l.keepAlive(lease)),
      revokeLease: (lease) => late(l.revokeLease(lease)),
    };
  }
}

for (const callMs of [510, 600, 690]) {
  await t.test(`each answer takes ${callMs} ms, to all: a pause, no restart and no reset`, async (t) => {
    const s = new SlowWorld(callMs);
    const { world: w, vm } = s;
    await s.protected();
    s.slow(w.net.nodes, callMs);
    await w.pass(30_000);
    t.same(w.runsOn(vm), [], 'it stands still');
    s.quick();
    await w.pass(6_000);
    if (!t.same(w.runsOn(vm), ['n1'], 'and goes on where it was')) t.comment(w.lines.slice(-60).join('\n'));
    t.equal(s.bites, 0, 'no watchdog bit');
    t.equal(w.checks.seen.filter((x) => x.what.startsWith('fail-over')).length, 0);
    if (!t.same(w.checks.violations, [], 'no promise is broken')) t.comment(w.lines.slice(-60).join('\n'));
    w.end();
  });
}

await t.test('only to the owner: its standby takes the VM over, and nobody is reset', async (t) => {
  const s = new SlowWorld(7);
  const { world: w, vm } = s;
  await s.protected();
  s.slow(['n1'], 600);
  await w.until('it runs elsewhere', () => w.runsOn(vm).some((n) => n !== 'n1'));
  await w.pass(30_000);
  s.quick();
  await w.pass(30_000);
  t.equal(s.bites, 0, 'no watchdog bit');
  t.equal(w.checks.seen.filter((x) => x.what === 'fail-over').length, 1, 'once');
  if (!t.same(w.checks.violations, [], 'no promise is broken')) t.comment(w.lines.slice(-60).join('\n'));
  w.end();
});

import type { KeeperState, Liveness, Log } from '../../../../agent/env.js';
import type { KeeperEtcd } from '../../../../agent/keeper/etcd.js';
import { Keeper } from '../../../../agent/keeper/keeper.js';
import type { Compare } from '../../../../agent/ledger/ledger.js';
import { systemClock, systemRandom } from '../../../../agent/system.js';
import { timingProfiles } from '../../../../core/domain/timing.js';
import { liveKey } from '../../../../core/wire/key-names.js';
import { FakeClock } from '../ledger/fake-clock.js';
import { FakeFreezer, FakeStore, FakeTakeovers, FakeWatchdog } from './fake-env.js';

const timing = timingProfiles.lab;

/** A node's keeper in this process, on a real ledger, with no machine to freeze. */
export class KeeperOnEtcd implements Liveness {
  readonly #keeper: Keeper;
  readonly #etcd: KeeperEtcd;
  readonly #node: string;

  constructor(o: { node: string; ledger: KeeperEtcd; log: Log }) {
    this.#node = o.node;
    this.#etcd = o.ledger;
    this.#keeper = new Keeper({
      node: o.node,
      version: '0',
      timing,
      clock: systemClock,
      random: systemRandom,
      log: o.log,
      ledger: o.ledger,
      freezer: new FakeFreezer(),
      watchdog: new FakeWatchdog(new FakeClock(), timing.watchdogMs),
      store: new FakeStore(),
      takeovers: new FakeTakeovers(),
      publish: () => undefined,
    });
  }

  start(): void {
    this.#keeper.start();
  }

  async stop(): Promise<void> {
    await this.#keeper.stop();
    this.#etcd.close();
  }

  compare(): Compare | null {
    const mine = this.mine();
    return mine === null ? null : { key: liveKey(this.#node), createRevision: mine.createRevision };
  }

  lease(): string | null {
    return this.mine()?.lease ?? null;
  }

  mine(): { createRevision: bigint; lease: string } | null {
    const { mode, goodMs, createRevision, lease }: KeeperState = this.#keeper.state();
    const good = mode === 'run' && goodMs !== null && systemClock.nowMs() - goodMs < timing.renewalGoodMs;
    return good && createRevision !== null && lease !== null ? { createRevision, lease } : null;
  }
}

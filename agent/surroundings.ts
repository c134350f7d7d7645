import { errorRecord } from '../core/domain/error.js';
import type { Health, NodeDrive, PoolUse } from '../core/domain/node.js';
import { poolHasNode, type Pool } from '../core/domain/pool.js';
import { ledger as kinds } from '../core/wire/ledger-keys.js';
import type { AgentEnv } from './env.js';
import type { Snapshot } from './snapshot.js';

/** Pools and bridges are looked at so often, ms; at once when their records change. */
const everyMs = 30_000;
/** Shared pools are written to so often while a VM has HA, ms: a standby counts on writes of the last 30 s. */
const haEveryMs = 10_000;
/** And so often while a VM of a lost node waits for a pool, ms. */
const awaitedEveryMs = 2_000;

/** What VMs need around them on this node: pools and bridges. Kept beside the loop: a hung pool delays nobody else. */
export class Surroundings {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  private lookedMs = -Infinity;
  private lookedAt = '';
  private looking = false;
  private swept = false;
  private poolUse: readonly PoolUse[] = [];
  private probedMs = -Infinity;
  private probing = false;
  private poolNames = new Map<string, string>();
  private bridgeFaults: readonly string[] = [];
  private driveList: readonly NodeDrive[] | null = null;

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.wake = wake;
  }

  /** Use of each pool of this node, as last probed, with the age of that now. */
  get pools(): readonly PoolUse[] {
    const ageMs = Math.max(0, Math.round(this.env.clock.nowMs() - this.probedMs));
    return this.poolUse.map((p) => ({ ...p, ageMs }));
  }

  /** Null: not looked at yet. */
  get drives(): readonly NodeDrive[] | null {
    return this.driveList;
  }

  /** What is wrong with pools, drives and bridges. */
  health(): Health[] {
    const drives = (this.driveList ?? [])
      .filter((d) => d.health?.well === false)
      .map((d) => ({ part: `drive ${d.device}`.slice(0, 64), ok: false, text: d.health?.text ?? '' }));
    const filling = this.poolUse
      .filter((p) => p.ok && p.thin !== undefined && p.text !== '')
      .map((p) => ({
        part: `pool ${this.poolNames.get(p.pool) ?? p.pool}`.slice(0, 64),
        ok: false,
        text: p.text,
      }));
    const pools = this.poolUse
      .filter((p) => !p.ok)
      .map((p) => ({
        part: `pool ${this.poolNames.get(p.pool) ?? p.pool}`.slice(0, 64),
        ok: false,
        text: p.text,
      }));
    const bridges = this.bridgeFaults.map((text) => ({
      part: 'network',
      ok: false,
      text: text.slice(0, 500),
    }));
    return [...pools, ...filling, ...drives.slice(0, 8), ...bridges.slice(0, 8)];
  }

  /**
   * Looks if it is time or something changed. Never waits.
   *
   * @param s - read just now
   * @param awaited - a VM of a lost node waits for a pool
   */
  look(s: Snapshot, awaited: boolean): void {
    const pools = [...s.pools.values()].filter((p) => poolHasNode(p.value, this.env.node));
    const addresses = [...s.nodes.values()].map((k) => k.value.addresses[0]);
    const at = [...[...pools, ...s.networks.values()].map((k) => k.modRevision), ...addresses].join();
    const now = this.env.clock.nowMs();
    if (this.looking) return;
    if (now - this.lookedMs < everyMs && at === this.lookedAt) {
      const ha = [...s.specs.values()].some((k) => k.value.ha.enabled);
      if (ha && now - this.probedMs >= (awaited ? awaitedEveryMs : haEveryMs))
        void this.probePools(pools.map((k) => k.value)).then(() => awaited && this.wake());
      return;
    }
    this.lookedMs = now;
    this.lookedAt = at;
    this.looking = true;
    void this.probe(
      s,
      pools.map((k) => k.value),
    ).finally(() => {
      this.looking = false;
      this.wake();
    });
  }

  private async probe(s: Snapshot, pools: readonly Pool[]): Promise<void> {
    this.poolNames = new Map(pools.map((p) => [p.id, p.name]));
    const [, faults] = await Promise.all([this.probePools(pools), this.tendBridges(s)]);
    this.driveList = (await this.env.drives?.list().catch(() => null)) ?? this.driveList;
    this.bridgeFaults = faults;
    if (this.swept) return;
    this.swept = true;
    const known = { disks: new Set(s.disks.keys()), images: new Set(s.images.keys()) };
    for (const pool of pools) {
      const gone = await this.env.volumes.sweep(pool, known).catch(() => []);
      if (gone.length > 0)
        this.env.log.info(`swept ${gone.length} left-over files of pool ${pool.name}`, { gone });
    }
  }

  /** The age counts from before the first write: what was well then may hang since. */
  private async probePools(pools: readonly Pool[]): Promise<void> {
    if (this.probing) return;
    this.probing = true;
    const began = this.env.clock.nowMs();
    try {
      this.poolUse = await Promise.all(pools.map((p) => this.probePool(p)));
      this.probedMs = began;
    } finally {
      this.probing = false;
    }
  }

  private async probePool(pool: Pool): Promise<PoolUse> {
    try {
      return await this.env.volumes.probe(pool);
    } catch (e) {
      const text = errorRecord(e).message.slice(0, 500);
      return { pool: pool.id, totalBytes: 0, freeBytes: 0, ok: false, text };
    }
  }

  /** Makes what is missing; takes away what deleted networks left, once no guest is on it. @returns faults */
  private async tendBridges(s: Snapshot): Promise<string[]> {
    const faults: string[] = [];
    for (const { value: network } of s.networks.values()) {
      await this.env.bridges
        .ensure(network)
        .catch((e: unknown) => faults.push(`network ${network.name}: ${errorRecord(e).message}`));
    }
    // A network whose record cannot be read is not a deleted one.
    if (s.unreadable.some((k) => kinds.network.idOf(k) !== null)) return faults;
    try {
      for (const { network: id, bridge } of await this.env.bridges.owned()) {
        if (!s.networks.has(id)) await this.env.bridges.remove({ id, name: bridge, bridge });
      }
    } catch (e) {
      faults.push(errorRecord(e).message);
    }
    return faults;
  }
}

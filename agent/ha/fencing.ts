import type { FailoverAction } from '../../core/decide/failover.js';
import { errorRecord } from '../../core/domain/error.js';
import { fencingDeviceName } from '../../core/domain/fencing.js';
import { epochKey, ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';
import { withPowerClaim } from './power-claim.js';

/** A BMC gets so long to power a node off and say so, ms: slow ones take ten seconds. */
export const fenceDeadlineMs = 20_000;
/** After a BMC did not confirm, the next try: doubled each time up to the last number, ms. */
const againMs = 5_000;
const againMsMax = 300_000;

type Wish = Extract<FailoverAction, { do: 'fence' }>;

/** Powers lost nodes off through their BMCs, one node of the cluster at a time for each, and writes the proof. */
export class Fencing {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  private readonly running = new Map<string, AbortController>();
  private readonly failed = new Map<string, { readonly count: number; readonly atMs: number }>();

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.wake = wake;
  }

  stop(): void {
    for (const r of this.running.values()) r.abort();
  }

  /** Begins what is wished and not under way. Never waits. */
  look(wishes: readonly Wish[], s: Snapshot): void {
    const now = this.env.clock.nowMs();
    for (const node of this.failed.keys()) if (!wishes.some((w) => w.node === node)) this.failed.delete(node);
    for (const w of wishes) {
      const f = this.failed.get(w.node);
      const restMs = f === undefined ? 0 : f.atMs + Math.min(againMsMax, againMs * 2 ** (f.count - 1)) - now;
      if (this.running.has(w.node) || restMs > 0 || this.env.fencer === undefined) continue;
      const abort = new AbortController();
      this.running.set(w.node, abort);
      void this.fence(w, s, abort.signal)
        .catch((e: unknown) => this.note(w.node, `could not be powered off: ${errorRecord(e).message}`))
        .finally(() => {
          this.running.delete(w.node);
          this.wake();
        });
    }
  }

  private note(node: string, text: string): void {
    const count = (this.failed.get(node)?.count ?? 0) + 1;
    this.failed.set(node, { count, atMs: this.env.clock.nowMs() });
    announce(this.env, 'error', node, text);
  }

  private async fence(w: Wish, s: Snapshot, signal: AbortSignal): Promise<void> {
    const { ledger, live, node: me, fencer, clock } = this.env;
    const mine = live.compare();
    if (mine === null || s.meta === null || fencer === undefined) return;
    const stillGone: Compare[] = [
      mine,
      { key: epochKey, value: String(s.meta.value.epoch) },
      { key: kinds.live.key(w.node), createRevision: 0n },
      { key: kinds.seen.key(w.node), modRevision: w.absence.seenRevision },
    ];
    await withPowerClaim(this.env, w.node, stillGone, async (ours) => {
      const entry = await ledger.get(kinds.bmc.key(w.node));
      if (entry === null) return;
      const device = readRecord(kinds.bmc, entry.key, entry.value);
      const name = fencingDeviceName(device);
      announce(this.env, 'warning', w.node, `lost its lease: ${name} is asked to power it off`);
      const outcome = await fencer.off(device, { signal, deadlineMs: fenceDeadlineMs });
      if (outcome.kind === 'not-confirmed') {
        this.note(w.node, `${name} did not confirm that it is off: ${outcome.error.message}`);
        return;
      }
      const proof = {
        node: w.node,
        seenRevision: String(w.absence.seenRevision),
        how: 'bmc' as const,
        by: `${name}, asked by ${me}`.slice(0, 128),
        atMs: clock.wallMs(),
      };
      const r = await ledger.txn(
        [...stillGone, ours],
        [{ put: kinds.fenced.key(w.node), value: writeRecord(kinds.fenced, proof) }],
      );
      announce(
        this.env,
        'warning',
        w.node,
        r.done ? `is off: ${name} confirmed it` : `was powered off by ${name}, and is back meanwhile`,
      );
    });
  }
}

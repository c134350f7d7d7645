import type { Arming, Keeper, KeeperState } from '../../agent/env.js';
import { FlotillaError } from '../../core/domain/error.js';

/** One node's keeper in memory, as far as its agent sees it. It outlives agents, as the real one does. */
export class FakeKeeper implements Keeper {
  readonly armed = new Map<string, readonly string[]>();
  /** Null: it would arm. */
  why: string | null = null;
  waitMs = 7_000;
  /** What the node's claims are bound to. */
  lease = '1';
  mode: KeeperState['mode'] = 'run';
  held: KeeperState['held'] = [];
  /** False: it does not answer. */
  up = true;
  /** Looks on: called before an arming is answered, and when a VM is disarmed. */
  onArm: (vm: string) => void = () => undefined;
  onDisarm: (vm: string) => void = () => undefined;
  readonly #listeners = new Set<() => void>();

  changed(): void {
    for (const l of this.#listeners) l();
  }

  state(): KeeperState | null {
    if (!this.up) return null;
    return {
      boot: 'boot',
      mode: this.mode,
      lease: this.lease,
      createRevision: 1n,
      goodMs: 0,
      armed: [...this.armed.keys()],
      watchdog: { kind: 'hardware', timeoutMs: 5_000 },
      armable: this.why === null ? { ok: true, waitMs: this.waitMs } : { ok: false, why: this.why },
      held: this.held,
      text: '',
    };
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async arm(vm: string, o: Arming): Promise<{ readonly waitMs: number }> {
    await Promise.resolve();
    if (!this.up || this.why !== null)
      throw new FlotillaError('not-armable', `not armed: ${this.why ?? 'no answer'}`, { hint: 'Mend that.' });
    this.armed.set(vm, o.takeover);
    this.onArm(vm);
    return { waitMs: this.waitMs };
  }

  async holds(vm: string): Promise<boolean> {
    await Promise.resolve();
    return this.armed.has(vm);
  }

  async disarm(vm: string): Promise<void> {
    await Promise.resolve();
    this.onDisarm(vm);
    this.armed.delete(vm);
  }
}

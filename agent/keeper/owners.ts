import { killOverdueMs, ownerVerdict, takeoverVerdict, type Verdict } from '../../core/decide/keeper.js';
import { errorRecord } from '../../core/domain/error.js';
import { ownKey } from '../../core/wire/key-names.js';
import type { ArmedVm, KeeperEnv } from './env.js';

/** Keys per reading: a transaction of etcd takes 128 operations. */
const keysMax = 100;

/** What the keeper has to do with machines whose owner is not plainly this node. */
export class Owners {
  readonly #env: KeeperEnv;
  /** VMs that stay frozen by themselves while the others run, and why. */
  readonly #held = new Map<string, string>();
  /** VMs of another owner whose machine was or is to be killed here. */
  readonly #killed = new Map<string, { readonly why: string; readonly sinceMs: number; gone: boolean }>();

  constructor(env: KeeperEnv, held: readonly string[]) {
    this.#env = env;
    for (const vm of held) this.#held.set(vm, 'its owner is to be read again');
  }

  /** VMs that must not be thawed: held ones, and those that do not die. */
  get frozen(): readonly string[] {
    return [...this.#held.keys(), ...[...this.#killed].filter(([, k]) => !k.gone).map(([vm]) => vm)];
  }

  /** VMs of another owner of which nothing is left here. */
  get dead(): readonly string[] {
    return [...this.#killed].filter(([, k]) => k.gone).map(([vm]) => vm);
  }

  /** For pages: what is frozen or was killed, and why. */
  get words(): readonly { readonly vm: string; readonly why: string }[] {
    return [
      ...[...this.#held].map(([vm, why]) => ({ vm, why: `frozen: ${why}` })),
      ...[...this.#killed].map(([vm, k]) => ({ vm, why: `${k.gone ? 'killed' : 'to be killed'}: ${k.why}` })),
    ];
  }

  /** The agent has dealt with it. */
  forget(vm: string): void {
    this.#held.delete(vm);
    this.#killed.delete(vm);
  }

  /** True: a machine of another owner lives on for too long, so the watchdog shall decide. */
  overdue(): boolean {
    const now = this.#env.clock.nowMs();
    return [...this.#killed.values()].some((k) => !k.gone && now - k.sinceMs >= killOverdueMs);
  }

  /**
   * Reads afresh who owns these VMs, and does what follows but thawing.
   *
   * @param armed - the generation on which each of them was armed; one that is not in it was not
   * @throws where the owners could not be read; then nothing is known
   */
  async review(vms: readonly string[], armed: ReadonlyMap<string, { readonly gen: number }>): Promise<void> {
    const { ledger, node } = this.#env;
    for (let i = 0; i < vms.length; i += keysMax) {
      const some = vms.slice(i, i + keysMax);
      const at = await ledger.read(some.map(ownKey));
      for (const vm of some) {
        const text = at.get(ownKey(vm))?.value ?? null;
        const armedGen = armed.get(vm)?.gen ?? null;
        await this.#follow(vm, ownerVerdict(text, node, await this.#journalGen(vm), armedGen));
      }
    }
  }

  /** The same by what new owners left in shared pools, while the ledger does not answer. */
  async reviewPools(armed: readonly ArmedVm[], epoch: number | null): Promise<void> {
    const { takeovers, node } = this.#env;
    for (const { vm, takeover, gen } of armed) {
      if (takeover.length === 0) continue;
      for (const text of await takeovers.read(takeover)) {
        const v = takeoverVerdict(text, { vm, node, epoch, above: gen }, await this.#journalGen(vm));
        if (v !== null) await this.#follow(vm, v);
      }
    }
  }

  /** Kills again what did not die, and forgets held ones that are gone. Cheap where nothing is due. */
  async insist(): Promise<void> {
    if (this.frozen.length === 0) return;
    const here = new Set((await this.#env.freezer.machines()).map((m) => m.vm));
    for (const vm of this.#held.keys()) if (!here.has(vm)) this.#held.delete(vm);
    for (const [vm, k] of this.#killed) {
      if (k.gone) continue;
      if (!here.has(vm)) k.gone = true;
      else await this.#kill(vm);
    }
  }

  async #follow(vm: string, v: Verdict): Promise<void> {
    const { log, clock } = this.#env;
    if (v.do === 'go-on') {
      if (this.#held.delete(vm)) log.info(`VM ${vm} goes on: this node owns it`);
      return;
    }
    if (v.do === 'hold') {
      if (this.#held.get(vm) !== v.why) log.error(`VM ${vm} stays frozen: ${v.why}`);
      this.#held.set(vm, v.why);
      return;
    }
    this.#held.delete(vm);
    if (!this.#killed.has(vm)) {
      log.warn(`VM ${vm} is killed here: ${v.why}`);
      this.#killed.set(vm, { why: v.why, sinceMs: clock.nowMs(), gone: false });
    }
    await this.#kill(vm);
  }

  async #kill(vm: string): Promise<void> {
    try {
      await this.#env.freezer.kill(vm);
      const here = await this.#env.freezer.machines();
      const k = this.#killed.get(vm);
      if (k !== undefined) k.gone = !here.some((m) => m.vm === vm);
    } catch (error) {
      this.#env.log.error(`VM ${vm} could not be killed: ${errorRecord(error).message}`);
    }
  }

  async #journalGen(vm: string): Promise<number | null> {
    return this.#env.store.journalGen(vm).catch(() => null);
  }
}

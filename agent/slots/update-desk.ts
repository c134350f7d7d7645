import { FlotillaError } from '../../core/domain/error.js';
import { nodeUpdateArgsSchema } from '../../core/domain/node-update.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import type { AgentEnv, Slots, SlotState } from '../env.js';
import type { OpBook } from '../op-book.js';
import { votersFault } from '../plan/holds.js';
import type { Kept, Snapshot } from '../snapshot.js';

/**
 * Does the `node.update` and `node.reboot` ops of this node: writes the image into the other slot, restarts into it, and says
 * after the restart which of the two it was; a reboot is the same without the slots. Each step is in the op before it is acted on, so an agent that finds one half-way goes on.
 * It also says that a slot on trial is good, once this agent has read the ledger and has its hypervisor: that is what the
 * others need of a node.
 */
export class UpdateDesk {
  readonly #env: AgentEnv;
  readonly #slots: Slots;
  readonly #ops: OpBook;
  readonly #wake: () => void;
  readonly #stopping = new AbortController();
  #busy = false;
  #settled = false;

  constructor(env: AgentEnv, slots: Slots, ops: OpBook, wake: () => void) {
    this.#env = env;
    this.#slots = slots;
    this.#ops = ops;
    this.#wake = wake;
  }

  stop(): void {
    this.#stopping.abort();
  }

  /** Called after a pass that read the ledger and the hypervisor. Never waits. @param running - VMs of this node that run */
  look(s: Snapshot, running: number): void {
    if (this.#busy || this.#stopping.signal.aborted) return;
    const kept = [...s.ops.values()].find(
      ({ value: o }) =>
        (o.kind === 'node.update' || o.kind === 'node.reboot') && o.node === this.#env.node && !opFinished(o),
    );
    if (kept === undefined && this.#settled) return;
    if (kept !== undefined && this.#env.live.compare() === null) return;
    this.#busy = true;
    void this.#work(s, kept, running).finally(() => {
      this.#busy = false;
      if (kept !== undefined) this.#wake();
    });
  }

  async #work(s: Snapshot, kept: Kept<Op> | undefined, running: number): Promise<void> {
    const { log } = this.#env;
    try {
      const state = await this.#slots.state();
      if (state !== null && state.onTrial !== null && state.onTrial === state.booted) {
        await this.#slots.good();
        log.info(`slot ${state.booted} is well: it is the good one now`);
      }
      this.#settled = true;
      if (kept !== undefined) await this.#step(s, kept, state, running);
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      if (error instanceof FlotillaError && error.code === 'ledger-unavailable') return;
      const now = kept === undefined ? null : await this.#ops.latest(kept.value.id).catch(() => null);
      if (now !== null) await this.#ops.fail(now, error).catch(() => undefined);
      else log.warn('the slots of this node', { error: String(error) });
    }
  }

  async #step(s: Snapshot, kept: Kept<Op>, state: SlotState | null, running: number): Promise<void> {
    const { node } = this.#env;
    const op = kept.value;
    const update = op.kind === 'node.update';
    if (update && state === null) {
      throw new FlotillaError('unsupported', `${node} has no slots: it was not made by the image`, {
        hint: 'On a host: run scripts/install of the newer checkout there.',
      });
    }
    const boot = update ? state?.boot : this.#env.keeper.state()?.boot;
    // The keeper has this boot's number, and the others see it by that.
    if (boot === undefined) return;
    const done = nodeUpdateArgsSchema.parse(op.args);
    if (done.boot !== undefined && done.boot !== boot) return this.#judge(kept, state, done.slot ?? null);
    if (op.cancelAsked) {
      throw new FlotillaError('cancelled', `The ${update ? 'update' : 'restart'} of ${node} was cancelled`, {
        hint: 'It goes on with the version it has.',
      });
    }
    if (running > 0) {
      throw new FlotillaError('in-use', `${running} VMs run on ${node}, which must restart`, {
        hint: `Move them away or stop them first: flotilla node drain ${node}.`,
      });
    }
    if (done.boot === undefined) {
      const slot = update ? await this.#write(s, op) : null;
      await this.#votersWell(s);
      const now = await this.#ops.latest(op.id);
      if (now === null) return;
      const args = { ...now.value.args, ...(slot === null ? {} : { slot }), boot };
      const step = slot === null ? 'restarts' : `slot ${slot} is written: restarts into it`;
      if ((await this.#ops.change(now, { args, state: 'running', step, progress: 0.8 })) === null) return;
    }
    // Looked at again in the next pass, with VMs counted anew; only then it restarts.
    else {
      if (done.slot !== undefined) await this.#slots.tryNext();
      await this.#slots.restart();
      await this.#env.clock.sleep(restartMs, this.#stopping.signal).catch(() => undefined);
    }
  }

  /**
   * A voter goes only while the others are well: a moment is waited for that.
   *
   * @throws FlotillaError `wrong-state`: one of them is not
   */
  async #votersWell(s: Snapshot): Promise<void> {
    const env = this.#env;
    if (s.nodes.get(env.node)?.value.voter !== true) return;
    const untilMs = env.clock.nowMs() + votersMs;
    for (;;) {
      const fault = await votersFault(env, env.node);
      if (fault === null) return;
      if (env.clock.nowMs() >= untilMs)
        throw new FlotillaError('wrong-state', `${env.node} does not restart: ${fault}`, {
          hint: 'Without both the ledger may have no majority. See to that voter first.',
        });
      await env.clock.sleep(votersAgainMs, this.#stopping.signal);
    }
  }

  async #write(s: Snapshot, op: Op): Promise<'a' | 'b'> {
    const image = s.images.get(op.subject.id)?.value;
    const pool = image && s.pools.get(image.pool)?.value;
    if (image === undefined || pool === undefined || image.state !== 'ready' || image.sha256 === null) {
      throw new FlotillaError(
        'not-found',
        `The image "${op.subject.name}" is not in the catalogue, or not ready`,
        {
          hint: 'flotilla image list',
        },
      );
    }
    this.#ops.progress(op, 0.1, 'fetches the image');
    const { signal } = this.#stopping;
    const progress = (share: number): void => this.#ops.progress(op, 0.1 + share * 0.4, 'fetches the image');
    const file = await this.#env.volumes.haveImage(image, pool, { signal, progress });
    this.#ops.progress(op, 0.5, 'writes the other slot');
    return this.#slots.write(file, image.sha256, signal);
  }

  /** After the restart: which one is it? */
  async #judge(kept: Kept<Op>, state: SlotState | null, wanted: 'a' | 'b' | null): Promise<void> {
    const { node, version } = this.#env;
    if (wanted === null) return this.#ops.finish(kept, 'done', `has restarted, with version ${version}`);
    if (state?.booted === wanted)
      return this.#ops.finish(kept, 'done', `runs version ${version} from slot ${wanted}`);
    throw new FlotillaError(
      'tool-failed',
      `${node} went back to slot ${state?.booted ?? '?'}: ${wanted} did not get well`,
      {
        hint: 'It runs the version it had. See the console of a machine that starts the other slot by hand.',
      },
    );
  }
}

/** Other voters that are not well are waited for so long before a restart is given up, and asked so often, ms. */
const votersMs = 120_000;
const votersAgainMs = 3_000;
/** The machine goes down within it; else it is told again, ms. */
const restartMs = 120_000;

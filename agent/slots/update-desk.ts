import { FlotillaError } from '../../core/domain/error.js';
import { nodeUpdateArgsSchema } from '../../core/domain/node-update.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import type { AgentEnv, Slots, SlotState } from '../env.js';
import type { OpBook } from '../op-book.js';
import type { Kept, Snapshot } from '../snapshot.js';

/**
 * Does the `node.update` ops of this node: writes the image into the other slot, restarts into it, and says after the restart
 * which of the two it was. Each step is in the op before it is acted on, so an agent that finds one half-way goes on.
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
      (k) => k.value.kind === 'node.update' && k.value.node === this.#env.node && !opFinished(k.value),
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
    if (state === null) {
      throw new FlotillaError('unsupported', `${node} has no slots: it was not made by the image`, {
        hint: 'On a host: run scripts/install of the newer checkout there.',
      });
    }
    const done = nodeUpdateArgsSchema.parse(op.args);
    if (done.slot !== undefined && done.boot !== state.boot) return this.#judge(kept, state, done.slot);
    if (op.cancelAsked) {
      throw new FlotillaError('cancelled', `The update of ${node} was cancelled`, {
        hint: 'It goes on with the version it has.',
      });
    }
    if (running > 0) {
      throw new FlotillaError('in-use', `${running} VMs run on ${node}, which must restart`, {
        hint: `Move them away or stop them first: flotilla node drain ${node}.`,
      });
    }
    if (done.slot === undefined) {
      const slot = await this.#write(s, op);
      const now = await this.#ops.latest(op.id);
      if (now === null) return;
      const args = { ...now.value.args, slot, boot: state.boot };
      const step = `slot ${slot} is written: restarts into it`;
      if ((await this.#ops.change(now, { args, state: 'running', step, progress: 0.8 })) === null) return;
    }
    // Looked at again in the next pass, with VMs counted anew; only then it restarts.
    else {
      await this.#slots.tryNext();
      await this.#slots.restart();
      await this.#env.clock.sleep(restartMs, this.#stopping.signal).catch(() => undefined);
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
  async #judge(kept: Kept<Op>, state: SlotState, wanted: 'a' | 'b'): Promise<void> {
    const { node, version } = this.#env;
    if (state.booted === wanted)
      return this.#ops.finish(kept, 'done', `runs version ${version} from slot ${wanted}`);
    throw new FlotillaError(
      'tool-failed',
      `${node} went back to slot ${state.booted}: ${wanted} did not get well`,
      {
        hint: 'It runs the version it had. See the console of a machine that starts the other slot by hand.',
      },
    );
  }
}

/** The machine goes down within it; else it is told again, ms. */
const restartMs = 120_000;

import { FlotillaError } from '../../core/domain/error.js';
import { fencingDeviceName } from '../../core/domain/fencing.js';
import type {
  FenceIdentity,
  FenceOutcome,
  FenceStatus,
  FencingDevice,
  WakeOutcome,
} from '../../core/domain/fencing.js';
import type { FenceCall, FenceDevice } from './fence-agent.js';
import { guidCommand, guidInput, programInput, type FenceAction } from './program-input.js';
import { NoSystem, systemUuid, theOnlySystem } from './redfish-system.js';
import { runProgram, type ProgramEnd } from './run-program.js';
import { reasonHint } from './reason.js';
import { lastWords } from './scrub.js';

const programs = { ipmi: '/usr/sbin/fence_ipmilan', redfish: '/usr/sbin/fence_redfish' } as const;

/** Debian's fence agents, as programs. @see fence_ipmilan(8), fence_redfish(8), fence-agents 4.16.0 */
export class FencePrograms implements FenceDevice {
  readonly #prefix: readonly string[];

  /** @param o.prefix - a command that runs the programs somewhere else; for tests */
  constructor(o: { prefix?: readonly string[] } = {}) {
    this.#prefix = o.prefix ?? [];
  }

  async off(device: FencingDevice, o: FenceCall): Promise<FenceOutcome> {
    const error = await this.#switch(device, 'off', o);
    return error === null ? { kind: 'confirmed-off' } : { kind: 'not-confirmed', error };
  }

  async on(device: FencingDevice, o: FenceCall): Promise<WakeOutcome> {
    const error = await this.#switch(device, 'on', o);
    return error === null ? { kind: 'confirmed-on' } : { kind: 'not-confirmed', error };
  }

  /** @returns why it is not confirmed; null: it is */
  async #switch(device: FencingDevice, to: 'off' | 'on', o: FenceCall): Promise<FlotillaError | null> {
    const turn = new Turn(device, o, this.#prefix);
    try {
      await turn.switch(to);
      const power = await turn.power();
      if (power === to) return null;
      return new FlotillaError('fence-failed', `${turn.name} took the order, but the power is ${power}`, {
        hint: `Power the node ${to} by hand; then see whether the device switches the right machine.`,
      });
    } catch (error) {
      return turn.refusal(error);
    }
  }

  async status(device: FencingDevice, o: FenceCall): Promise<FenceStatus> {
    const turn = new Turn(device, o, this.#prefix);
    try {
      return { kind: 'answers', power: await turn.power() };
    } catch (error) {
      return { kind: 'no-answer', error: turn.refusal(error) };
    }
  }

  async identify(device: FencingDevice, o: FenceCall): Promise<FenceIdentity> {
    const turn = new Turn(device, o, this.#prefix);
    try {
      return { kind: 'answers', uuid: await turn.uuid() };
    } catch (error) {
      return { kind: 'no-answer', error: turn.refusal(error) };
    }
  }
}

/** How a program says that it heard nothing. Not that it waited in vain for a node to be off. */
const silence = /Connection timed out$/;

/** One call: its deadline covers all the programs it runs. */
class Turn {
  readonly name: string;
  readonly #device: FencingDevice;
  readonly #o: FenceCall;
  readonly #prefix: readonly string[];
  readonly #late: AbortSignal;
  readonly #signal: AbortSignal;
  #systemUri: string | null;

  constructor(device: FencingDevice, o: FenceCall, prefix: readonly string[]) {
    this.name = fencingDeviceName(device);
    this.#device = device;
    this.#o = o;
    this.#prefix = prefix;
    this.#late = AbortSignal.timeout(o.deadlineMs);
    this.#signal = o.signal ? AbortSignal.any([o.signal, this.#late]) : this.#late;
    this.#systemUri = device.kind === 'redfish' ? device.systemUri : null;
  }

  async switch(to: 'off' | 'on'): Promise<void> {
    const end = await this.#run(to);
    const said = /^Success: (?:Powered|Already) (OFF|ON)$/.exec(end.stdout.trim())?.[1];
    if (end.code !== 0 || said?.toLowerCase() !== to) throw this.#failed(`did not power its node ${to}`, end);
  }

  /** Only the two answers there are, each with the code that belongs to it; 2 alone could be a usage error. */
  async power(): Promise<'on' | 'off'> {
    const end = await this.#run('status');
    const said = end.stdout.trim();
    if (end.code === 2 && said === 'Status: OFF') return 'off';
    if (end.code === 0 && said === 'Status: ON') return 'on';
    throw this.#failed('did not say whether the power is on', end);
  }

  /** Null: it gives none. */
  async uuid(): Promise<string | null> {
    this.#signal.throwIfAborted();
    const device = this.#device;
    if (device.kind === 'redfish') {
      this.#systemUri ??= await theOnlySystem(device, this.#signal);
      return systemUuid(device, this.#systemUri, this.#signal);
    }
    const command = [...this.#prefix, ...guidCommand(device)];
    const end = await runProgram(command, { input: guidInput(device), ca: null, signal: this.#signal });
    this.#signal.throwIfAborted();
    if (end.code !== 0) throw this.#failed('did not say which machine it belongs to', end);
    return /^System GUID +: *([0-9a-f-]{36}) *$/im.exec(end.stdout)?.[1] ?? null;
  }

  async #run(action: FenceAction): Promise<ProgramEnd> {
    this.#signal.throwIfAborted();
    const device = this.#device;
    if (device.kind === 'redfish') this.#systemUri ??= await theOnlySystem(device, this.#signal);
    const input = programInput(device, action, {
      deadlineMs: this.#o.deadlineMs,
      systemUri: this.#systemUri,
    });
    const ca = device.kind === 'redfish' && device.verifyTls ? device.ca : null;
    const command = [...this.#prefix, programs[device.kind]];
    const end = await runProgram(command, { input, ca, signal: this.#signal });
    this.#signal.throwIfAborted();
    return end;
  }

  #failed(what: string, end: ProgramEnd): FlotillaError {
    const said = lastWords(end.stderr, this.#device);
    const how = end.code === null ? 'the program was killed' : `the program ended with code ${end.code}`;
    const code = silence.test(said) ? 'fence-timeout' : 'fence-failed';
    return new FlotillaError(code, `${this.name} ${what}`, {
      hint: reasonHint(said),
      cause: new Error(said === '' ? how : `${how}: ${said}`),
    });
  }

  /** What went wrong, as it may travel: nothing unscrubbed is attached. */
  refusal(error: unknown): FlotillaError {
    if (this.#o.signal?.aborted) {
      return new FlotillaError('cancelled', `fencing through ${this.name} was cancelled`, {
        hint: 'Whether the node is off is not known.',
      });
    }
    if (this.#late.aborted) {
      return new FlotillaError(
        'fence-timeout',
        `${this.name} did not answer within ${this.#o.deadlineMs} ms`,
        {
          hint: 'See whether the BMC has power and is on a network that this node reaches.',
        },
      );
    }
    if (error instanceof FlotillaError) return error;
    const said = lastWords(error instanceof Error ? error.message : String(error), this.#device);
    return new FlotillaError('fence-failed', `${this.name} cannot be used`, {
      hint: error instanceof NoSystem ? error.hint : reasonHint(said),
      cause: new Error(said),
    });
  }
}

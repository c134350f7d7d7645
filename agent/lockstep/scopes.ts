import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { FlotillaError } from '../../core/domain/error.js';
import type { Tool } from '../pool/tool.js';

/** Where machines in lockstep run, as systemd has it: so that the keeper finds them, and the agent's own end is not theirs. */
export interface Scopes {
  /** Moves a process into a new scope of that slice; the one it was in goes when it is empty. */
  put(pid: number, vm: string, slice: string): Promise<void>;
}

/** Twins: the keeper kills them where it freezes others. @see safety 11 */
export const twinSlice = 'machine-twin.slice';

const deadlineMs = 30_000;
const lookMs = 5;

/** Scopes made by systemd's manager. Each has a name that does not come again. */
export class SystemdScopes implements Scopes {
  readonly #run: Tool;
  readonly #wallMs: () => number;

  constructor(o: { run: Tool; wallMs: () => number }) {
    this.#run = o.run;
    this.#wallMs = o.wallMs;
  }

  async put(pid: number, vm: string, slice: string): Promise<void> {
    const manager = [
      'org.freedesktop.systemd1',
      '/org/freedesktop/systemd1',
      'org.freedesktop.systemd1.Manager',
    ];
    const name = `machine-lockstep-${vm}-${this.#wallMs()}.scope`;
    const properties = [
      'PIDs',
      'au',
      '1',
      String(pid),
      'Slice',
      's',
      slice,
      'CollectMode',
      's',
      'inactive-or-failed',
    ];
    await this.#run(
      'busctl',
      ['call', ...manager, 'StartTransientUnit', 'ssa(sv)a(sa(sv))', name, 'fail', '3', ...properties, '0'],
      { deadlineMs },
    );
    // It answers before the process has been moved.
    for (const untilMs = performance.now() + deadlineMs; ; await sleep(lookMs)) {
      if ((await readFile(`/proc/${pid}/cgroup`, 'utf8')).includes(`/${name}`)) return;
      if (performance.now() > untilMs) {
        throw new FlotillaError('timeout', `systemd has not put the machine of VM ${vm} into its scope`, {
          hint: 'The node is overloaded; the agent tries again by itself.',
        });
      }
    }
  }
}

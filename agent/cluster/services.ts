import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { FlotillaError } from '../../core/domain/error.js';
import { syncDir } from '../pki/files.js';

/** Units of the node that the agent starts and stops. */
export type Unit = 'flotilla-etcd' | 'flotilla-mosquitto';

/** The node's services. Starting does not wait until they are ready: a voter is ready when others are. */
export interface Services {
  /** Starts it now and at each boot. Idempotent. */
  enable(unit: Unit): Promise<void>;
  /** Stops it now and does not start it at boot. Idempotent. */
  disable(unit: Unit): Promise<void>;
  /** Starts it anew, with its new configuration. */
  restart(unit: Unit): Promise<void>;
  /** Lets it read certificates and access lists again, and waits until it was told. */
  reload(unit: Unit): Promise<void>;
  active(unit: Unit): Promise<boolean>;
}

/** systemctl answers at once with --no-block; stopping waits for the unit, which systemd kills after 90 s. */
const systemctlTimeoutMs = 120_000;

/** Where `systemctl enable` puts the links of our units. */
const wantsDir = '/etc/systemd/system/multi-user.target.wants';

/** What our units say of their slice. */
const slices: Readonly<Record<Unit, string>> = {
  'flotilla-etcd': 'flotilla.slice',
  'flotilla-mosquitto': 'system.slice',
};

/** Services by systemd. */
export class SystemdServices implements Services {
  readonly #cgroups: string;

  /** @param cgroups - where the kernel shows its cgroups */
  constructor(cgroups = '/sys/fs/cgroup') {
    this.#cgroups = cgroups;
  }

  async enable(unit: Unit): Promise<void> {
    await this.#systemctl('enable', '--quiet', `${unit}.service`);
    // systemd leaves its link to the kernel's leisure: a power cut within half a minute would undo it.
    await syncDir(wantsDir).catch((e: unknown) => {
      if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    });
    await this.#systemctl('start', '--no-block', `${unit}.service`);
  }

  async disable(unit: Unit): Promise<void> {
    await this.#systemctl('disable', '--quiet', `${unit}.service`);
    // Waits for its end: its data may be removed next.
    await this.#systemctl('stop', `${unit}.service`);
  }

  async restart(unit: Unit): Promise<void> {
    await this.#systemctl('restart', '--no-block', `${unit}.service`);
  }

  async reload(unit: Unit): Promise<void> {
    await this.#systemctl('reload-or-restart', `${unit}.service`);
  }

  async active(unit: Unit): Promise<boolean> {
    if (await this.#populated(unit)) return true;
    const { exitCode, stdout } = await execa('systemctl', ['is-active', `${unit}.service`], {
      reject: false,
      timeout: systemctlTimeoutMs,
    });
    return exitCode === 0 || stdout.trim() === 'activating';
  }

  /**
   * Whether a process of the unit lives, as the kernel says: a hundredth of what running systemctl costs, and this is
   * asked every few seconds. "No" proves nothing: the unit may be about to start, or the cgroup be elsewhere.
   */
  async #populated(unit: Unit): Promise<boolean> {
    const file = path.join(this.#cgroups, slices[unit], `${unit}.service`, 'cgroup.events');
    const text = await readFile(file, 'utf8').catch(() => '');
    return /^populated 1$/m.test(text);
  }

  async #systemctl(...args: string[]): Promise<void> {
    try {
      await execa('systemctl', args, { timeout: systemctlTimeoutMs, stdin: 'ignore' });
    } catch (cause) {
      throw new FlotillaError('tool-failed', `systemctl ${args.join(' ')} failed`, {
        hint: 'Look at "systemctl status" and the journal of the unit.',
        cause,
      });
    }
  }
}

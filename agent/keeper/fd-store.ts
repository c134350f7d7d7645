import { spawn } from 'node:child_process';

/** systemd answers in 20 ms; one that is this late has not answered, ms. */
const answerMs = 3_000;

/** Where an open file outlives the process that opened it. */
export interface FdStore {
  /** False: nothing is ever kept. */
  readonly there: boolean;
  /** What the process before left; null: nothing. Open in this process already. */
  readonly left: number | null;
  /** @returns whether it is certain to be kept from now on */
  put(fd: number): Promise<boolean>;
  /** @returns whether it is certain not to be kept any more */
  remove(): Promise<boolean>;
}

/**
 * systemd's store of file descriptors, of which this unit has one. Node can send no descriptor over a socket, so
 * systemd-notify does, which inherits it; it waits until systemd has dealt with what it sent.
 *
 * @see systemd-notify(1) of systemd 257: `--fd`, since 254; sd_notify(3): FDSTORE, FDPOLL; sd_listen_fds(3)
 */
export class SystemdFdStore implements FdStore {
  readonly left: number | null;
  readonly there: boolean;
  readonly #name: string;

  constructor(name: string, env: NodeJS.ProcessEnv = process.env, pid = process.pid) {
    this.#name = name;
    this.there = (env['NOTIFY_SOCKET'] ?? '') !== '';
    const at =
      env['LISTEN_PID'] === String(pid) ? (env['LISTEN_FDNAMES'] ?? '').split(':').indexOf(name) : -1;
    this.left = at < 0 ? null : 3 + at;
  }

  put(fd: number): Promise<boolean> {
    // Without FDPOLL=0 systemd drops what hangs up.
    return this.#notify(['--fd=3', `--fdname=${this.#name}`, 'FDPOLL=0'], fd);
  }

  remove(): Promise<boolean> {
    return this.there ? this.#notify(['FDSTOREREMOVE=1', `FDNAME=${this.#name}`]) : Promise.resolve(true);
  }

  #notify(words: readonly string[], fd?: number): Promise<boolean> {
    if (!this.there) return Promise.resolve(false);
    return new Promise((resolve) => {
      const child = spawn('systemd-notify', words, {
        stdio: ['ignore', 'ignore', 'ignore', fd ?? 'ignore'],
        timeout: answerMs,
        killSignal: 'SIGKILL',
      });
      child.on('error', () => resolve(false));
      child.on('exit', (code) => resolve(code === 0));
    });
  }
}

/** For where there is none. */
export const noFdStore: FdStore = {
  there: false,
  left: null,
  put: () => Promise.resolve(false),
  remove: () => Promise.resolve(true),
};

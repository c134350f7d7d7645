import { closeSync, constants, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import path from 'node:path';
import type { Watchdog, WatchdogInfo } from './env.js';

/** The device is looked at again after this long while it is closed, ms: a module may be loaded later. */
const lookEveryMs = 5_000;

export interface WatchdogOptions {
  /** The first that is there is used. */
  readonly devices?: readonly string[];
  readonly sysfs?: string;
  /** What a pipe in place of a device is told to do by whoever reads it, ms. */
  readonly pipeTimeoutMs: number;
  readonly nowMs: () => number;
}

/**
 * The machine's watchdog device. Node cannot do its ioctls, so the timeout is set where the module is loaded
 * (modprobe.d) and checked here, by sysfs. In the lab the device is a pipe.
 *
 * @see Documentation/watchdog/watchdog-api.rst, sysfs-class-watchdog of Linux 6
 */
export class WatchdogDevice implements Watchdog {
  readonly #o: Required<WatchdogOptions>;
  #fd: number | null = null;
  #info: WatchdogInfo | null = null;
  #lookedMs = -Infinity;
  #device = '';

  constructor(o: WatchdogOptions) {
    this.#o = { devices: ['/dev/watchdog0', '/dev/watchdog'], sysfs: '/sys/class/watchdog/watchdog0', ...o };
  }

  info(): WatchdogInfo {
    const now = this.#o.nowMs();
    if (this.#info === null || (this.#fd === null && now - this.#lookedMs >= lookEveryMs)) {
      this.#info = this.#look();
      this.#lookedMs = now;
    }
    return this.#info;
  }

  pet(): void {
    if (this.#fd === null) this.#open();
    if (this.#fd !== null) writeSync(this.#fd, '.');
  }

  disarm(): void {
    const info = this.info();
    if (info.nowayout) return;
    // A start of the keeper before this one may have left it running.
    if (this.#fd === null && info.kind !== 'none' && info.fault === null && this.#runs()) this.#open();
    if (this.#fd === null) return;
    writeSync(this.#fd, 'V');
    this.release();
  }

  release(): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }

  #open(): void {
    const kind = this.info().kind;
    // A pipe is opened for both, so that opening waits for no reader and writing meets no broken pipe.
    const flags = kind === 'pipe' ? constants.O_RDWR | constants.O_NONBLOCK : constants.O_WRONLY;
    this.#fd = openSync(this.#device, flags);
  }

  #runs(): boolean {
    return this.info().kind === 'pipe' || this.#sys('state') === 'active';
  }

  #look(): WatchdogInfo {
    for (const device of this.#o.devices) {
      const found = this.#kindOf(device);
      if (found === null) continue;
      this.#device = device;
      if (found === 'pipe') {
        const timeoutMs = this.#o.pipeTimeoutMs;
        return { kind: 'pipe', timeoutMs, nowayout: false, running: false, fault: null };
      }
      const timeoutS = Number(this.#sys('timeout') ?? Number.NaN);
      return {
        kind: this.#sys('identity') === 'Software Watchdog' ? 'software' : 'hardware',
        timeoutMs: timeoutS > 0 ? timeoutS * 1000 : null,
        nowayout: this.#sys('nowayout') !== '0',
        running: this.#sys('state') === 'active',
        fault: null,
      };
    }
    return { kind: 'none', timeoutMs: null, nowayout: false, running: false, fault: null };
  }

  #kindOf(device: string): 'pipe' | 'device' | null {
    const s = statSync(device, { throwIfNoEntry: false });
    if (s?.isFIFO() === true) return 'pipe';
    return s?.isCharacterDevice() === true ? 'device' : null;
  }

  #sys(name: string): string | null {
    try {
      return readFileSync(path.join(this.#o.sysfs, name), 'utf8').trim();
    } catch {
      return null;
    }
  }
}

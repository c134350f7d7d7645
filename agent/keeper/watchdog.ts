import { closeSync, constants, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import path from 'node:path';
import type { Watchdog, WatchdogInfo } from './env.js';
import { noFdStore, type FdStore } from './fd-store.js';

/** The device is looked at again after this long while it is closed, ms: a module may be loaded later. */
const lookEveryMs = 5_000;

export interface WatchdogOptions {
  /** The first that is there is used. */
  readonly devices?: readonly string[];
  readonly sysfs?: string;
  /** What a pipe in place of a device is told to do by whoever reads it, ms. */
  readonly pipeTimeoutMs: number;
  readonly nowMs: () => number;
  /** Keeps it open when this process dies; by default nobody does. */
  readonly store?: FdStore;
}

type Found = Omit<WatchdogInfo, 'kept'>;

/**
 * The machine's watchdog device. Node cannot do its ioctls, so the timeout is set where the module is loaded
 * (modprobe.d) and checked here, by sysfs. In the lab the device is a pipe.
 *
 * The kernel pets a device that its last holder closes without having stopped it: so as not to be the last when it
 * dies, the keeper has it kept open ({@link FdStore}).
 *
 * @see Documentation/watchdog/watchdog-api.rst, sysfs-class-watchdog of Linux 6
 */
export class WatchdogDevice implements Watchdog {
  readonly #o: Required<WatchdogOptions>;
  #fd: number | null;
  #kept: WatchdogInfo['kept'];
  /** It is being stopped, and runs until nobody else has it open. */
  #stopping = false;
  /** It could not be stopped, and is petted on. */
  #stuck = false;
  /** Putting into the store and taking out, one after the other. */
  #order: Promise<void> = Promise.resolve();
  #info: Found | null = null;
  #lookedMs = -Infinity;
  #device = '';

  constructor(o: WatchdogOptions) {
    this.#o = {
      devices: ['/dev/watchdog0', '/dev/watchdog'],
      sysfs: '/sys/class/watchdog/watchdog0',
      store: noFdStore,
      ...o,
    };
    this.#fd = this.#o.store.left;
    this.#kept = this.#fd === null ? this.#hope : 'yes';
  }

  info(): WatchdogInfo {
    const now = this.#o.nowMs();
    if (this.#info === null || (this.#fd === null && now - this.#lookedMs >= lookEveryMs)) {
      this.#info = this.#look();
      this.#lookedMs = now;
    }
    const on = this.#stopping || this.#stuck;
    const { nowayout, running } = this.#info;
    return { ...this.#info, nowayout: nowayout || on, running: running || on, kept: this.#kept };
  }

  pet(): void {
    if (this.#fd === null) this.#open();
    if (this.#fd !== null) writeSync(this.#fd, '.');
  }

  async disarm(still: () => boolean): Promise<void> {
    const { kind, fault } = this.info();
    if (this.#info?.nowayout === true || this.#stopping) return;
    // A start of the keeper before this one may have left it running.
    if (this.#fd === null && kind !== 'none' && fault === null && this.#runs()) this.#open();
    if (this.#fd === null) return;
    this.#stopping = true;
    this.#kept = this.#hope;
    try {
      await this.#inOrder(() => this.#stop(still));
      this.#stuck = false;
    } catch (error) {
      this.#stuck = true;
      throw error;
    } finally {
      this.#stopping = false;
    }
  }

  /** V counts when the last one that has the device open closes it; until then it runs on. */
  async #stop(still: () => boolean): Promise<void> {
    const alone = await this.#o.store.remove();
    if (!still()) return this.#keep();
    if (!alone) throw new Error('systemd does not let go of it');
    if (this.#fd !== null) writeSync(this.#fd, 'V');
    this.release();
  }

  get #hope(): 'soon' | 'no' {
    return this.#o.store.there ? 'soon' : 'no';
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
    this.#kept = this.#hope;
    void this.#inOrder(() => this.#keep());
  }

  async #keep(): Promise<void> {
    if (this.#fd !== null) this.#kept = (await this.#o.store.put(this.#fd)) ? 'yes' : 'no';
  }

  #inOrder(act: () => Promise<void>): Promise<void> {
    const done = this.#order.then(act);
    this.#order = done.catch(() => undefined);
    return done;
  }

  #runs(): boolean {
    return this.info().kind === 'pipe' || this.#sys('state') === 'active';
  }

  #look(): Found {
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

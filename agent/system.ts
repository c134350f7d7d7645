import { randomInt, randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock, Log, Random, Sockets } from './env.js';

/** The machine's clocks. */
export const systemClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  async sleep(ms, signal) {
    await sleep(ms, undefined, signal === undefined ? {} : { signal });
  },
};

export const systemRandom: Random = { uuid: () => randomUUID(), below: (n) => randomInt(n) };

/** Lines for journald: the priority in front as sd-daemon(3) has it, fields behind as JSON. */
export function journal(write: (line: string) => void = (l) => process.stdout.write(l)): Log {
  const line =
    (priority: number) =>
    (text: string, fields?: Record<string, unknown>): void => {
      const more = fields === undefined ? '' : ` ${JSON.stringify(fields)}`;
      write(`<${priority}>${text.replaceAll('\n', ' / ')}${more}\n`);
    };
  return { info: line(6), warn: line(4), error: line(3) };
}

/** Console sockets below the runtime directory, console logs below the state directory. */
export class ConsoleSockets implements Sockets {
  private readonly runDir: string;
  private readonly logDir: string;

  constructor(o: { runtimeDir: string; stateDir: string }) {
    this.runDir = path.join(o.runtimeDir, 'vm');
    this.logDir = path.join(o.stateDir, 'consoles');
  }

  paths(vmId: string): ReturnType<Sockets['paths']> {
    return {
      serial: path.join(this.runDir, vmId, 'serial.sock'),
      vnc: path.join(this.runDir, vmId, 'vnc.sock'),
      serialLog: path.join(this.logDir, `${vmId}.log`),
    };
  }

  async prepare(vmId: string): Promise<void> {
    await mkdir(path.join(this.runDir, vmId), { recursive: true, mode: 0o700 });
    await mkdir(this.logDir, { recursive: true, mode: 0o700 });
  }

  async remove(vmId: string): Promise<void> {
    await rm(path.join(this.runDir, vmId), { recursive: true, force: true });
    // virtlogd keeps older parts as .0, .1, ...
    const log = this.paths(vmId).serialLog;
    for (const f of [log, `${log}.0`, `${log}.1`, `${log}.2`, `${log}.3`]) await rm(f, { force: true });
  }
}

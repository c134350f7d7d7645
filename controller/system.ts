import { randomBytes, randomInt, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock, Log, Random } from '../agent/env.js';
import type { Chance } from './api/context.js';

/** The machine's clocks. */
export const systemClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  sleep: async (ms, signal) => {
    await sleep(ms, undefined, signal === undefined ? {} : { signal });
  },
};

export const systemRandom: Random = { uuid: () => randomUUID(), below: (n) => randomInt(n) };
export const systemChance: Chance = {
  uuid: () => randomUUID(),
  hex: (bytes) => randomBytes(bytes).toString('hex'),
};

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

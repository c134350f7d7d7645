import type { EventName, ProcedureName } from './protocol.js';

/**
 * What went over the wire, by name: for metrics, and for the contract test, which fails when a row of the
 * procedure table was never answered.
 */
export class Counters {
  readonly answered = new Map<ProcedureName, number>();
  readonly failed = new Map<ProcedureName, number>();
  readonly events = new Map<EventName, number>();
  /** messages that could not be read */
  unreadable = 0;
  /** keepalive questions of the daemon that we answered */
  pongs = 0;
  /** times a connection to the daemon was made */
  connects = 0;
}

/** Adds one. */
export function count<K>(map: Map<K, number>, key: K): void {
  map.set(key, (map.get(key) ?? 0) + 1);
}

import type {
  FenceIdentity,
  FenceOutcome,
  FenceStatus,
  FencingDevice,
  WakeOutcome,
} from '../../core/domain/fencing.js';

/** Limits of one call. */
export interface FenceCall {
  /** Ends it early; what runs for it is killed. */
  readonly signal?: AbortSignal;
  /** The whole call, ms from now. At the deadline all that runs for it is killed. */
  readonly deadlineMs: number;
}

/**
 * Powers nodes off and on through their BMCs. No call throws for what a device, its network or its answers do: all of
 * that is in what they give back.
 */
export interface FenceDevice {
  /**
   * Powers off at once, without asking the system that runs there, and then asks whether it is off. May be repeated:
   * a node that is off already is confirmed.
   */
  off(device: FencingDevice, o: FenceCall): Promise<FenceOutcome>;
  /** Powers on, and then asks whether it is on. May be repeated: a node that is on already is confirmed. */
  on(device: FencingDevice, o: FenceCall): Promise<WakeOutcome>;
  /** Asks whether the device answers and takes these credentials. Changes nothing. */
  status(device: FencingDevice, o: FenceCall): Promise<FenceStatus>;
  /** Asks which machine it belongs to. Changes nothing. */
  identify(device: FencingDevice, o: FenceCall): Promise<FenceIdentity>;
}

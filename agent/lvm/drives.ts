import type { NodeDrive } from '../../core/domain/node.js';
import type { Clock } from '../env.js';
import { driveFault, type Lvm } from './lvm.js';
import type { BlockDevice, DriveHealth } from './report.js';

/** A drive is asked about its health so often, ms: it changes over weeks. */
const healthEveryMs = 60 * 60_000;
/** And looked at so often, ms: each look runs a handful of programs. */
const lookEveryMs = 60_000;
const drivesMax = 64;

/** The drives of this node, what is on them, and how they are. */
export class DriveList {
  readonly #lvm: Lvm;
  readonly #clock: Clock;
  #health = new Map<string, DriveHealth | null>();
  #healthMs = -Infinity;
  #last: { readonly atMs: number; readonly list: Promise<readonly NodeDrive[]> } | null = null;

  constructor(lvm: Lvm, clock: Clock) {
    this.#lvm = lvm;
    this.#clock = clock;
  }

  /** @throws FlotillaError `tool-failed`, `timeout` */
  list(): Promise<readonly NodeDrive[]> {
    const now = this.#clock.nowMs();
    if (this.#last === null || now - this.#last.atMs >= lookEveryMs)
      this.#last = { atMs: now, list: this.#look() };
    return this.#last.list;
  }

  async #look(): Promise<readonly NodeDrive[]> {
    const devices = (await this.#lvm.devices()).filter(isDrive).slice(0, drivesMax);
    const { drives } = await this.#lvm.look();
    const groups = new Map(drives.map((d) => [d.pv_name, d.vg_name]));
    await this.#askHealth(devices);
    const serials = devices.map((d) => d.serial);
    return Promise.all(
      devices.map(async (d) => ({
        device: d.path.slice(0, 64),
        // Two drives with one number cannot be told apart: neither is named.
        serial: serials.filter((s) => s === d.serial).length === 1 ? d.serial : '',
        model: d.model,
        sizeBytes: d.sizeBytes,
        ...(await this.#useOf(d, groups.get(d.path))),
        health: cut(this.#health.get(d.path) ?? null),
      })),
    );
  }

  async #useOf(d: BlockDevice, group: string | undefined): Promise<Pick<NodeDrive, 'use' | 'text'>> {
    if (group !== undefined) {
      const ours = /^flotilla-[0-9a-f]{8}$/.test(group);
      return ours ? { use: 'pool', text: group } : { use: 'data', text: `volume group ${group}` };
    }
    const mounted = [d, ...d.children].find((x) => x.mounts.length > 0);
    if (mounted !== undefined)
      return { use: 'system', text: `mounted at ${mounted.mounts[0] ?? ''}`.slice(0, 200) };
    const fault = driveFault(d, await this.#lvm.signatures(d.path));
    return fault === null ? { use: 'empty', text: '' } : { use: 'data', text: fault.slice(0, 200) };
  }

  async #askHealth(devices: readonly BlockDevice[]): Promise<void> {
    const now = this.#clock.nowMs();
    const known = devices.every((d) => this.#health.has(d.path));
    if (known && now - this.#healthMs < healthEveryMs) return;
    this.#healthMs = now;
    const asked = devices.map(
      async (d) => [d.path, await this.#lvm.health(d.path).catch(() => null)] as const,
    );
    this.#health = new Map(await Promise.all(asked));
  }
}

/** CDs, loop devices and mapped volumes are none. */
const isDrive = (d: BlockDevice): boolean =>
  d.type === 'disk' && d.sizeBytes > 0 && !/^\/dev\/(drbd|zram|nbd|ram)/.test(d.path);

const cut = (h: DriveHealth | null): NodeDrive['health'] =>
  h === null ? null : { well: h.well, text: h.text.slice(0, 200) };

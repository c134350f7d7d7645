import type { AgentEnv, Clock, Replication, Volumes } from '../../agent/env.js';
import { FlotillaError } from '../../core/domain/error.js';
import { volumesOf, type PairSeen, type Replica, type ReplicaVolume } from '../../core/domain/replica.js';

/** Copying what is new takes so long, ms. */
const syncMs = 3_000;

/** And until a volume is larger. */
const growMs = 700;

/** One volume of a pair. */
interface Volume {
  /** Nodes whose copy was made. */
  readonly made: Set<string>;
  /** Both were told to be the same, or were copied. */
  whole: boolean;
  /** What is new is being copied until then. */
  syncUntilMs: number;
  sizeBytes: number;
}

/** A kernel that tells what has changed, of one that is asked. */
export async function watchPairs(
  look: Replication['observe'],
  clock: Pick<Clock, 'sleep'>,
  changed: () => void,
  ended: () => boolean,
): Promise<void> {
  let was = '';
  while (!ended()) {
    const { pairs } = await look();
    const now = JSON.stringify([...pairs.values()], (key, value: unknown) =>
      key === 'behindBytes' || key === 'sizeBytes' ? undefined : value,
    );
    if (now !== was) changed();
    was = now;
    await clock.sleep(250);
  }
}

/** The kernels' DRBD of two nodes that never lose each other, with the volumes below: for what is done with disks. */
export class FakePairs {
  /** What there is below, by node and disk. */
  readonly below = new Map<string, number>();
  readonly log: string[] = [];
  /** How often each node has asked how its pairs are. */
  readonly looks = new Map<string, number>();
  /** The two kernels still find out whether their copies fit. */
  shakeHands = false;
  /** Nobody is told of changes any more. */
  mute = false;
  readonly #clock: Clock;
  readonly #volumes = new Map<string, Volume>();
  /** What each node was told of a VM's pair last. */
  readonly #open = new Map<string, readonly ReplicaVolume[]>();
  readonly #primary = new Set<string>();
  /** Volumes that a node has left though the pair goes on, by node and minor. */
  readonly #closed = new Set<string>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A node's drive below is lost, or there again: the pair goes on with the other copy. */
  loseDrive(node: string, minor: number, lost: boolean): void {
    if (lost) this.#closed.add(`${node}/${minor}`);
    else this.#closed.delete(`${node}/${minor}`);
  }

  /** Whether a volume below is there. */
  has(node: string, disk: string): boolean {
    return this.below.has(`${node}/${disk}`);
  }

  sizeOf(vm: string, volume: number): number {
    return this.#volumes.get(`${vm}/${volume}`)?.sizeBytes ?? 0;
  }

  /** What a machine sees of a device: the piece for DRBD's notes is larger than they are. Null: there is none. */
  deviceBytes(minor: number): number | null {
    for (const [key, volumes] of this.#open) {
      const v = volumes.find((x) => x.minor === minor);
      if (v !== undefined)
        return this.sizeOf(key.slice(key.indexOf('/') + 1), v.volume) + 4 * 2 ** 20 - 40 * 2 ** 10;
    }
    return null;
  }

  /** A volume is behind on the other node for a moment. */
  fallBehind(vm: string, volume: number): void {
    const v = this.#volumes.get(`${vm}/${volume}`);
    if (v !== undefined) v.syncUntilMs = this.#clock.nowMs() + syncMs;
  }

  primary(node: string, vm: string): boolean {
    return this.#primary.has(`${node}/${vm}`);
  }

  volumes(node: string, otherwise: Volumes): Volumes {
    const thin = (of: { kind: string }): boolean => of.kind === 'thin';
    return {
      ...otherwise,
      diskPath: (d, p) => (thin(p) ? `${p.path}/d-${d.id}` : otherwise.diskPath(d, p)),
      openCopy: async (disk, _pool, format) => {
        if (this.has(node, disk.id)) return;
        if (format === null) throw new FlotillaError('not-found', 'the volume is not there', { hint: '' });
        await format();
        this.below.set(`${node}/${disk.id}`, disk.sizeBytes);
      },
      growDisk: async (disk, pool) => {
        if (disk.replicas !== 2) return otherwise.growDisk(disk, pool);
        await Promise.resolve();
        this.below.set(`${node}/${disk.id}`, disk.sizeBytes);
      },
      removeDisk: async (disk, pool) => {
        if (disk.replicas !== 2) return otherwise.removeDisk(disk, pool);
        await Promise.resolve();
        for (const [key, volumes] of this.#open)
          if (key.startsWith(`${node}/`) && volumes.some((v) => v.disk === disk.id))
            throw new Error(`the volume of ${disk.id} is taken away while it is open on ${node}`);
        this.below.delete(`${node}/${disk.id}`);
      },
      fillDisk: async (disk, _pool, from) => {
        if (!this.primary(node, disk.vm)) throw new Error('written to without being the one that writes');
        await Promise.resolve();
        this.log.push(`${disk.id} as ${'snapshot' in from ? from.snapshot.id : from.image.id}`);
      },
    };
  }

  driver(node: string): Replication {
    const at = (vm: string): string => `${node}/${vm}`;
    const volume = (vm: string, n: number): Volume => {
      const v = this.#volumes.get(`${vm}/${n}`);
      if (v === undefined) throw new Error(`the pair of ${vm} has no volume ${n}`);
      return v;
    };
    const others = (vm: string): readonly ReplicaVolume[] =>
      [...this.#open].find(([key]) => key.endsWith(`/${vm}`) && key !== at(vm))?.[1] ?? [];
    const no = (): never => {
      throw new Error('the fake pairs do not know this call');
    };
    const smallest = (v: ReplicaVolume): number =>
      Math.min(...[...this.below].filter(([key]) => key.endsWith(`/${v.disk}`)).map(([, size]) => size));
    const look = async (): ReturnType<Replication['observe']> => {
      await this.#clock.sleep(10);
      const pairs = new Map<string, PairSeen>();
      for (const [key, mine] of this.#open) {
        const vm = key.slice(key.indexOf('/') + 1);
        if (key !== at(vm)) continue;
        const there = others(vm);
        pairs.set(vm, {
          vm,
          role: this.#primary.has(at(vm)) ? 'Primary' : 'Secondary',
          peerRole: [...this.#primary].some((p) => p.endsWith(`/${vm}`) && p !== at(vm))
            ? 'Primary'
            : 'Secondary',
          connection: there.length > 0 ? 'Connected' : 'Connecting',
          suspended: false,
          volumes: mine.map((v) => {
            const x = volume(vm, v.volume);
            const up = there.some((o) => o.volume === v.volume);
            const syncing = this.#clock.nowMs() < x.syncUntilMs;
            const state = x.whole ? 'UpToDate' : 'Inconsistent';
            const primary = this.#primary.has(at(vm));
            return {
              volume: v.volume,
              minor: v.minor,
              here: this.#closed.has(`${node}/${v.minor}`)
                ? 'Diskless'
                : syncing && !primary
                  ? 'Inconsistent'
                  : state,
              there: [...this.#closed].some((k) => k.endsWith(`/${v.minor}`) && !k.startsWith(`${node}/`))
                ? 'Diskless'
                : !up
                  ? 'DUnknown'
                  : syncing && primary
                    ? 'Inconsistent'
                    : state,
              replication:
                !up || this.shakeHands
                  ? 'Off'
                  : syncing
                    ? primary
                      ? 'SyncSource'
                      : 'SyncTarget'
                    : 'Established',
              sizeBytes: x.sizeBytes,
              behindBytes: syncing ? 2 ** 20 : 0,
            };
          }),
        });
      }
      return { pairs, unreadable: [] };
    };
    return {
      usable: async () => ({ ok: true }),
      watch: (changed, signal) => watchPairs(look, this.#clock, changed, () => signal.aborted || this.mute),
      observe: () => {
        this.looks.set(node, (this.looks.get(node) ?? 0) + 1);
        return look();
      },
      make: async (r, n) => {
        await this.#clock.sleep(20);
        const key = `${r.vm}/${n}`;
        for (const x of r.volumes) if (x.volume === n) this.#closed.delete(`${node}/${x.minor}`);
        const v = this.#volumes.get(key) ?? { made: new Set(), whole: false, syncUntilMs: 0, sizeBytes: 0 };
        if (v.whole) throw new Error(`the copy of ${key} on ${node}, which is whole, is made anew`);
        v.made.add(node);
        this.#volumes.set(key, v);
      },
      reconnects: async () => false,
      adjust: async (r: Replica) => {
        await this.#clock.sleep(20);
        const before = this.#open.get(at(r.vm)) ?? [];
        const now = volumesOf(r);
        for (const v of before)
          if (!now.some((x) => x.volume === v.volume)) {
            if (!this.#closed.has(`${node}/${v.minor}`) && before.length > 1)
              throw new Error(`Minor still configured (down it first): ${v.minor} on ${node}`);
            this.log.push(`${node} closes volume ${v.volume}`);
            if (!others(r.vm).some((x) => x.volume === v.volume)) this.#volumes.delete(`${r.vm}/${v.volume}`);
          }
        for (const v of now) {
          const x = volume(r.vm, v.volume);
          if (!x.made.has(node) || !this.has(node, v.disk))
            throw new Error(`volume ${v.volume} of ${r.vm} has nothing below on ${node}`);
          if (x.sizeBytes === 0 && x.made.size === 2) x.sizeBytes = smallest(v);
        }
        this.#open.set(at(r.vm), now);
      },
      closeVolume: async (minor) => {
        await this.#clock.sleep(20);
        const [key] = [...this.#open].find(
          ([k, all]) => k.startsWith(`${node}/`) && all.some((v) => v.minor === minor),
        ) ?? [''];
        const vm = key.slice(key.indexOf('/') + 1);
        const peer =
          [...this.#open].find(([k]) => k.endsWith(`/${vm}`) && k !== key)?.[0].split('/')[0] ?? '';
        if (!this.#primary.has(at(vm)) && this.primary(peer, vm) && !this.#closed.has(`${peer}/${minor}`))
          throw new Error(`State change was refused by peer node: ${minor} is open on ${peer}`);
        if (
          this.#open.has(`${peer}/${vm}`) &&
          !this.#open.get(`${peer}/${vm}`)?.some((v) => v.minor === minor)
        )
          throw new Error(`${peer} has forgotten ${minor}: the connection would break`);
        this.#closed.add(`${node}/${minor}`);
      },
      resize: async (vm, n) => {
        await this.#clock.sleep(20);
        const v = this.#open.get(at(vm))?.find((x) => x.volume === n);
        if (v === undefined || !this.#primary.has(at(vm))) throw new Error('resized by who does not write');
        const x = volume(vm, n);
        const size = smallest(v);
        if (size <= x.sizeBytes) return;
        // It has only begun when the command is done, and goes on without whoever asked.
        void this.#clock.sleep(growMs).then(() => {
          x.sizeBytes = size;
          x.syncUntilMs = this.#clock.nowMs() + syncMs;
          this.log.push(`volume ${n} has ${size} bytes`);
        });
      },
      skipFirstSync: async (vm, n) => {
        const x = volume(vm, n);
        if (x.made.size !== 2) throw new Error('the first copying is left out with one copy');
        x.whole = true;
      },
      promote: async (vm) => {
        await this.#clock.sleep(20);
        if (!this.#open.has(at(vm))) throw new Error(`${vm} is not open on ${node}`);
        this.#primary.add(at(vm));
      },
      demote: async (vm) => void this.#primary.delete(at(vm)),
      allowTwoPrimaries: async () => undefined,
      disconnect: no,
      cutOff: no,
      connect: no,
      resume: no,
      down: async (vm) => {
        this.#primary.delete(at(vm));
        this.#open.delete(at(vm));
        if (others(vm).length === 0)
          for (const key of this.#volumes.keys()) if (key.startsWith(`${vm}/`)) this.#volumes.delete(key);
      },
    };
  }
}

/** Calls of {@link Replication} that do something; the others only look. */
export const pairActs: readonly (keyof NonNullable<AgentEnv['replication']>)[] = [
  'make',
  'adjust',
  'closeVolume',
  'resize',
  'skipFirstSync',
  'promote',
  'demote',
  'allowTwoPrimaries',
  'down',
];

import type {
  Arrived,
  Job,
  JobProgress,
  MigrateOptions,
  MigrateResult,
  MigrateTarget,
} from '../../agent/libvirt/hypervisor.js';
import { LibvirtError } from '../../agent/libvirt/hypervisor.js';
import type { FakeDomain, FakeHost } from './fake-hypervisor.js';

/** The daemon of another node as `peers.libvirt` of a simulated node gives it. */
export type FakePeer = NonNullable<MigrateTarget['peer']> & {
  readonly host: FakeHost;
  /** The two nodes reach each other, and both are on. */
  reaches(): boolean;
};

export const fakePeer = (host: FakeHost, reaches: () => boolean): FakePeer =>
  Object.assign(() => Promise.reject(new Error('a fake daemon has no socket')), { host, reaches });

/** So often something may go wrong while the memory is sent, ms. */
const sliceMs = 100;
/** A daemon notices so late that the other end is gone, ms. */
const silentMs = 6_000;

const failed = (text: string): LibvirtError =>
  new LibvirtError(text, { code: 'refused', outcome: 'refused' });

/** What the client decides; a daemon whose client is gone meanwhile drops the job, and leaves both machines as they are. */
async function decision(o: MigrateOptions, alive: () => boolean, host: FakeHost): Promise<Arrived> {
  const said = alive()
    ? (o.onArrived?.() ?? Promise.resolve<Arrived>('go'))
    : Promise.resolve<Arrived>('leave');
  let over = false;
  const gone = async (): Promise<Arrived> => {
    while (alive() && !over) await host.wait(sliceMs);
    return 'leave';
  };
  try {
    return await Promise.race([said, gone()]);
  } finally {
    over = true;
  }
}

/**
 * A migration driven by an agent, as libvirt does its part: the machine here stands still when all is sent, `finish`
 * makes the copy whole, and whoever drives decides which of the two goes. The death of the driver before `finish` ends
 * the copy, and lets the machine here go on if it was still sending; after that nobody does anything.
 */
export function fakeMigration(
  host: FakeHost,
  uuid: string,
  to: MigrateTarget,
  o: MigrateOptions,
  alive: () => boolean,
): Job<MigrateResult> {
  const peer = to.peer as FakePeer;
  let cancelled = false;
  let share = 0;
  const started = host.get(uuid).id;
  const same = (): FakeDomain | null => {
    const d = host.domains.get(uuid);
    return d?.active === true && d.id === started ? d : null;
  };
  const run = async (): Promise<MigrateResult> => {
    const source = host.active(uuid);
    if (host.jobs.has(uuid)) throw failed('another migration job is already running');
    if (!peer.reaches() || !peer.host.up) throw failed('unable to connect to server');
    host.jobs.set(uuid, () => (cancelled = true));
    const copy = peer.host.arriving(uuid, o.destXml ?? source.xml);
    const there = (): boolean => peer.host.domains.get(uuid) === copy && copy.active;
    const endCopy = (): void => {
      const end = (): void => {
        if (there()) peer.host.die(uuid, 'failed');
      };
      if (peer.reaches()) end();
      else void peer.host.wait(silentMs).then(end);
    };
    const goesOn = (text: string, whole = false): never => {
      host.jobs.delete(uuid);
      // What is whole needs nobody any more, and stays.
      if (!whole) endCopy();
      const d = same();
      if (d?.state.reason === 'migration') host.goOn(uuid);
      throw failed(text);
    };
    for (let ms = 0; ms < host.migrateMs;) {
      await host.wait(sliceMs);
      if (!alive()) return goesOn('the client is gone');
      if (cancelled) return goesOn('operation aborted: migration out job: canceled by client');
      if (same() === null) return goesOn('domain is not running');
      if (!peer.reaches() || !there()) {
        await host.wait(silentMs / 2);
        return goesOn('the other end is gone');
      }
      // What stands still sends nothing.
      if (!host.standsStill(uuid)) ms += sliceMs;
      share = Math.min(1, ms / host.migrateMs);
    }
    host.standStill(uuid);
    await host.wait(30);
    // The daemon here knows that all is sent; without its client it leaves everything as it is.
    if (!alive() || same() === null) {
      host.jobs.delete(uuid);
      endCopy();
      throw failed('the client is gone');
    }
    if (!peer.reaches() || !there()) return goesOn('finish: the other end is gone');
    peer.host.whole(uuid);
    source.copy = copy;
    await host.wait(20);
    if (host.loseFinish !== null) {
      host.loseFinish();
      return goesOn('finish: its answer was lost', true);
    }
    const decided = await decision(o, alive, host);
    host.jobs.delete(uuid);
    await host.wait(host.endMs);
    if (!alive() || decided === 'leave' || same() === null) throw failed('nobody decides');
    if (decided === 'stay') {
      host.goOn(uuid);
      throw failed('it stays');
    }
    host.migratedAway(uuid);
    return { downtimeMs: 55, totalMs: host.migrateMs };
  };
  const done = run();
  done.catch(() => undefined);
  return {
    done,
    async *progress(): AsyncGenerator<JobProgress> {
      let over = false;
      void done.finally(() => (over = true)).catch(() => undefined);
      while (!over) {
        yield { phase: 'copying', fraction: share };
        await host.wait(500);
      }
    },
    cancel: async () => {
      await host.wait(5);
      cancelled = true;
    },
  };
}

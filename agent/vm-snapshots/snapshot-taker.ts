import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { deviceId, type Disk } from '../../core/domain/disk.js';
import type { Pool } from '../../core/domain/pool.js';
import type { SnapshotDisk, VmSnapshot } from '../../core/domain/vm-snapshot.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import { LibvirtError, type Job } from '../libvirt/hypervisor.js';
import { keptNow } from '../snapshot.js';
import { targetIn } from '../vm/domain-xml.js';
import type { Observed } from '../vm/domains.js';
import type { Turns } from '../vm/turns.js';

/** A guest flushes what it has not written; one with much to write needs seconds, and one that needs longer has a fault. */
const freezeMs = 20_000;
/** Nothing of a guest stands still longer for a snapshot: then it goes on, and the snapshot has failed. */
const standstillMsMax = 20_000;
const thawMs = 10_000;
/** A guest that does not thaw is asked again so often, and for so long; then people are told. */
const thawAgainMs = 2_000;
const thawTriesMs = 10 * 60_000;

/** What is taken. */
export interface Taking {
  readonly spec: VmSpec;
  /** As it owned the VM when it began. */
  readonly gen: number;
  readonly snapshot: VmSnapshot;
  readonly parts: readonly Part[];
  readonly domain: Observed | null;
  /** An earlier try, of this agent or of one that died, may have left things behind. */
  readonly again: boolean;
  readonly signal: AbortSignal;
  progress(share: number, step: string): void;
  /** Asked before and after the moment. @throws FlotillaError `wrong-state`: a copy here does not have every write */
  whole(): Promise<void>;
  /** Written down for good before a mirror begins or a guest's file systems are held: whoever finds it ends that first. */
  mark(step: string): Promise<void>;
}

export interface Part {
  readonly volume: SnapshotDisk;
  readonly disk: Disk;
  readonly pool: Pool;
}

export type Taken = Pick<VmSnapshot, 'disks' | 'consistency' | 'takenMs'>;

/**
 * Takes snapshots: all disks of a VM at one moment. Thin volumes are snapshotted while the machine stands still. Files that are
 * written to are mirrored while it runs, and the mirrors are cut at that same moment; files of a VM that is off are copied.
 * The disk itself is never changed, so that whatever breaks off costs the snapshot only.
 */
export class SnapshotTaker {
  private readonly env: AgentEnv;
  private readonly turns: Turns;

  constructor(env: AgentEnv, turns: Turns) {
    this.env = env;
    this.turns = turns;
  }

  /** @throws FlotillaError, LibvirtError. Nothing is held afterwards, whatever came of it. */
  async take(t: Taking): Promise<Taken> {
    await t.whole();
    return t.domain?.active === true ? this.running(t) : this.off(t);
  }

  /** What an earlier try has left is of another moment. */
  private async afresh(t: Taking): Promise<void> {
    for (const p of t.parts) await this.env.volumes.removeSnapshot(p.volume, p.pool);
  }

  private async off(t: Taking): Promise<Taken> {
    const { volumes, clock } = this.env;
    const used = new Map<string, number>();
    await this.afresh(t);
    for (const [i, p] of t.parts.entries())
      used.set(
        p.volume.id,
        await volumes.takeSnapshot(p.disk, p.pool, p.volume, {
          signal: t.signal,
          progress: (share) => t.progress((i + share) / t.parts.length, `copies disk ${p.disk.name}`),
        }),
      );
    await t.whole();
    const own = await keptNow(this.env.ledger, kinds.vmOwn, t.spec.id);
    if (own?.value.gen !== t.gen || own.value.state !== 'stopped')
      throw new FlotillaError('wrong-state', `VM "${t.spec.name}" was started while it was snapshotted`, {
        hint: 'Take the snapshot again: of a VM that runs it is taken, too.',
      });
    return { disks: this.disks(t, used), consistency: 'stopped', takenMs: clock.wallMs() };
  }

  private async running(t: Taking): Promise<Taken> {
    const { env } = this;
    const { id } = t.spec;
    const files = t.parts.filter((p) => p.pool.kind !== 'thin');
    const devs = await this.devices(t);
    if (t.again) {
      await this.thaw(t.spec, { once: true });
      for (const p of files) await this.cut(id, devs.get(p.volume.id) ?? '');
    }
    await this.afresh(t);
    const mirrors: Job<void>[] = [];
    let cutAll = false;
    if (files.length > 0) await t.mark('copies its disks');
    try {
      for (const [i, p] of files.entries()) {
        const draft = await env.volumes.snapshotDraft(p.volume, p.pool);
        const xml = `<disk type='file'><driver type='${p.volume.format}'/><source file='${draft}'/></disk>`;
        const job = env.hypervisor.blockCopy(id, devs.get(p.volume.id) ?? '', xml, {
          finish: 'leave',
          transientJob: true,
        });
        mirrors.push(job);
        await this.follow(job, t.signal, (share) =>
          t.progress(((i + share) / files.length) * 0.95, `copies disk ${p.disk.name}`),
        );
      }
      if (!(await this.turns.wait(id, env.clock, t.signal))) t.signal.throwIfAborted();
      let moment: Moment;
      try {
        moment = await this.atOnce(t, devs);
      } finally {
        this.turns.end(id);
      }
      cutAll = true;
      const used = new Map(moment.used);
      for (const p of files) used.set(p.volume.id, await env.volumes.keepDraft(p.volume, p.pool));
      return { disks: this.disks(t, used), consistency: moment.consistency, takenMs: moment.takenMs };
    } finally {
      if (!cutAll) {
        for (const m of mirrors) await m.cancel().catch(() => undefined);
        for (const p of files) await this.cut(id, devs.get(p.volume.id) ?? '').catch(() => undefined);
      }
    }
  }

  /** The one moment: the guest has flushed, the machine stands still, nothing is on its way to a disk. */
  private async atOnce(t: Taking, devs: ReadonlyMap<string, string>): Promise<Moment> {
    const { env } = this;
    const { id } = t.spec;
    const held = await this.freeze(t);
    try {
      const state = await env.hypervisor.state(id);
      const stood = state.state === 'paused';
      if (!stood) await env.hypervisor.suspend(id);
      try {
        const takenMs = env.clock.wallMs();
        const used = await this.within(this.cutDisks(t, devs));
        return { used, takenMs, consistency: held ? 'filesystem' : 'crash' };
      } finally {
        // Should this fail, the next pass finds it paused though it is to run, and lets it go on.
        if (!stood) await env.hypervisor.resume(id);
      }
    } finally {
      if (held) await this.thaw(t.spec, { once: false });
    }
  }

  private async cutDisks(t: Taking, devs: ReadonlyMap<string, string>): Promise<Map<string, number>> {
    const { volumes, hypervisor } = this.env;
    const used = new Map<string, number>();
    for (const p of t.parts) {
      if (p.pool.kind !== 'thin') {
        await hypervisor.blockJobAbort(t.spec.id, devs.get(p.volume.id) ?? '', {
          deadlineMs: standstillMsMax,
        });
        continue;
      }
      used.set(
        p.volume.id,
        await volumes.takeSnapshot(p.disk, p.pool, p.volume, { signal: t.signal, progress: () => undefined }),
      );
    }
    await t.whole();
    return used;
  }

  /** @returns whether its file systems are held */
  private async freeze(t: Taking): Promise<boolean> {
    const { env } = this;
    const wanted = t.snapshot.consistency;
    if (wanted === 'crash' || (wanted === 'auto' && t.domain?.agentConnected !== true)) return false;
    const { name } = t.spec;
    try {
      if (t.domain?.agentConnected !== true) throw new Error('it is not connected');
      await t.mark('holds the file systems of its guest');
      const count = await env.hypervisor.fsFreeze(t.spec.id, undefined, { deadlineMs: freezeMs });
      if (count > 0) return true;
      throw new Error('it held no file system');
    } catch (cause) {
      // It may have held some of them, or hold them still when nobody waits for its answer any more.
      if (t.domain?.agentConnected === true) await this.thaw(t.spec, { once: false });
      if (cause instanceof FlotillaError || wanted === 'filesystem')
        throw cause instanceof FlotillaError
          ? cause
          : new FlotillaError(
              'guest-agent-unavailable',
              `VM "${name}": its guest agent does not hold its file systems`,
              {
                hint: 'Install qemu-guest-agent in the guest and see that it runs, or take one that is as after a power loss: --consistency crash.',
                cause,
              },
            );
      env.log.warn(`VM "${name}" is snapshotted as after a power loss: ${errorRecord(cause).message}`);
      return false;
    }
  }

  /** Lets the guest's file systems go; ends only when they are, the machine is gone, or people were told. */
  private async thaw(spec: VmSpec, o: { readonly once: boolean }): Promise<void> {
    const { env } = this;
    const endMs = env.clock.nowMs() + thawTriesMs;
    for (;;) {
      try {
        await env.hypervisor.fsThaw(spec.id, undefined, { deadlineMs: thawMs });
        return;
      } catch (e) {
        if (e instanceof LibvirtError && ['no-such-domain', 'invalid-state'].includes(e.code)) return;
        if (o.once) return;
        if (env.clock.nowMs() > endMs) {
          const text = `its guest agent does not let its file systems go: ${errorRecord(e).message}`;
          announce(env, 'error', spec.name, `${text}. Restart the agent in the guest, or reset the VM`);
          return;
        }
      }
      await env.clock.sleep(thawAgainMs);
    }
  }

  private async within<T>(work: Promise<T>): Promise<T> {
    const ended = new AbortController();
    const late = this.env.clock.sleep(standstillMsMax, ended.signal).then(
      (): never => {
        throw new FlotillaError(
          'timeout',
          `Its disks were not snapshotted within ${standstillMsMax / 1000} s`,
          {
            hint: 'The guest goes on. See whether the drives of its node are overloaded, then try again.',
          },
        );
      },
      () => new Promise<never>(() => undefined),
    );
    try {
      return await Promise.race([work, late]);
    } finally {
      ended.abort();
      work.catch(() => undefined);
    }
  }

  private async follow(job: Job<void>, signal: AbortSignal, tell: (share: number) => void): Promise<void> {
    const stop = (): void => void job.cancel().catch(() => undefined);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    try {
      for await (const { fraction } of job.progress()) tell(fraction);
      await job.done;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  /** Ends a mirror that is there; the disk stays what it was. */
  private async cut(vm: string, dev: string): Promise<void> {
    const { hypervisor } = this.env;
    const job = await hypervisor.blockJobInfo(vm, dev);
    if (job?.type === 'copy') await hypervisor.blockJobAbort(vm, dev);
  }

  /** Targets of the disks in the machine, by volume. */
  private async devices(t: Taking): Promise<Map<string, string>> {
    const xml = await this.env.hypervisor.xml(t.spec.id);
    return new Map(
      t.parts.map((p) => {
        const dev = targetIn(xml, `ua-disk-${deviceId(p.disk)}`);
        if (dev !== null) return [p.volume.id, dev];
        throw new FlotillaError(
          'wrong-state',
          `Disk "${p.disk.name}" is not in the machine of VM "${t.spec.name}" yet`,
          { hint: 'It comes with the next restart of the VM. Restart it, then take the snapshot again.' },
        );
      }),
    );
  }

  private disks(t: Taking, used: ReadonlyMap<string, number>): SnapshotDisk[] {
    return t.snapshot.disks.map((d) => ({ ...d, usedBytes: used.get(d.id) ?? null }));
  }
}

interface Moment {
  readonly used: ReadonlyMap<string, number>;
  readonly takenMs: number;
  readonly consistency: 'crash' | 'filesystem';
}

import {
  cannotGrow,
  decideCopies,
  isPaired,
  mayOpenSecond,
  pairSame,
  syncedDisks,
  type CopiesStep,
} from '../../core/decide/copies.js';
import { decideFormer, type FormerStep } from '../../core/decide/second-node.js';
import { copyAddresses } from '../../core/decide/replica-edit.js';
import { decideSync, replicaWords } from '../../core/decide/replica.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { Health } from '../../core/domain/node.js';
import { opFinished } from '../../core/domain/op.js';
import {
  devicePath,
  hasCopy,
  otherNode,
  volumesOf,
  type PairSeen,
  type Replica,
  type ReplicaVolume,
  type VolumeSeen,
} from '../../core/domain/replica.js';
import type { Disk } from '../../core/domain/disk.js';
import type { Pool } from '../../core/domain/pool.js';
import type { CopyWords } from '../../core/domain/vm.js';
import { epochKey, ledger as kinds, readRecord, unique, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import { FenceJudge } from '../drbd/fence-door.js';
import type { AgentEnv, Replication, WorkOptions, DiskFrom } from '../env.js';
import type { Write } from '../ledger/ledger.js';
import type { Kept, Snapshot } from '../snapshot.js';
import type { Observed } from '../vm/domains.js';
import type { Turns } from '../vm/turns.js';
import { SyncRate } from './sync-rate.js';

/** The pairs of this node are looked at so often while one of them is not well, or nobody tells of changes, ms: a program is run for it. */
const lookMs = 1_000;
/** And so often where all are well, and every change is told, ms. */
const calmLookMs = 10_000;
/** What the kernel tells is looked at so often at most, ms: a peer that comes and goes tells several things each time. */
const toldLookMs = 200;
/** Who told of changes and has ended is begun again after this long, ms. */
const watchAgainMs = 5_000;
/** A node that could not hold copies is asked again after this long, ms: modules come with packages. */
const usableAgainMs = 60_000;
/** A failed step is tried again after this long, doubled up to the last number, ms. */
const againMs = 2_000;
const againMsMax = 60_000;
/** Copies that refuse each other are connected again so often, ms. */
const connectAgainMs = 5_000;
/** A migration waits so long for copies that are the same, ms: the node it left last may still hold the disks. */
const sameMs = 30_000;
/** And so long for the node it goes to, which opens them, ms: two commands of a loaded node. */
const secondMs = 60_000;
/** While it waits it looks so often, ms. */
const migrateLookMs = 100;
/** After a pair was opened its peer is waited for so long before a machine starts alone, ms: both may just have booted. */
const meetMs = 15_000;

interface Trouble {
  readonly count: number;
  readonly untilMs: number;
  readonly text: string;
}

/**
 * The copies of disks that this node has: opens them, connects them, says in the ledger when they are the same, and takes
 * them away. Who may write is decided by the start of a machine, and by the judge behind the kernel's question.
 */
export class ReplicaDesk {
  private readonly env: AgentEnv;
  private readonly turns: Turns;
  private readonly wake: () => void;
  private pairs: ReadonlyMap<string, PairSeen> | null = null;
  private unreadable: readonly string[] = [];
  /** When the reading of {@link pairs} began. */
  private lookedMs = -Infinity;
  private looking = false;
  /** Something was done here since a reading began last. */
  private due = true;
  /** The kernel told of something since then. */
  private toldDue = false;
  /** Readings and acts, counted in the order in which the ones began and the others ended. */
  private count = 0;
  /** The reading of {@link pairs} in that count. */
  private looked = 0;
  private readonly stopping = new AbortController();
  private watching = false;
  /** Whether every change is told. */
  private told = false;
  private watchedMs = -Infinity;
  private silent = false;
  private lookFault: string | null = null;
  private use: { readonly text: string | null; readonly atMs: number } = { text: null, atMs: -Infinity };
  private asking = false;
  /** What was done last with each VM's pair, in the same count: an older reading says nothing. */
  private readonly acts = new Map<string, number>();
  private readonly openedMs = new Map<string, number>();
  /** What each pair was made from last, while this agent lives. */
  private readonly made = new Map<string, string>();
  private readonly troubles = new Map<string, Trouble>();
  private readonly connectMs = new Map<string, number>();
  /** Minors of which the kernel said that both copies were written while apart. */
  private readonly split = new Set<number>();
  /** VMs to whose disks this node writes without a machine, and how many such works. */
  private readonly filling = new Map<string, number>();
  private readonly rate = new SyncRate();
  /** VMs whose disks this agent has opened for the copy that migrates here: nothing has been written to them from here. */
  private readonly second = new Set<string>();
  /** VMs of which this agent knows that the kernel lets one node write only. */
  private readonly oneWriter = new Set<string>();
  /** Revisions of records that were tidied already. */
  private readonly tidied = new Set<bigint>();

  constructor(env: AgentEnv, turns: Turns, wake: () => void) {
    this.env = env;
    this.turns = turns;
    this.wake = wake;
  }

  /** Why no disk can have a copy here, in words; empty: it can; null: not known yet. */
  get unusable(): string | null {
    return this.use.text;
  }

  /** The kernel says that both copies behind that device were written while apart. */
  splitSeen(minor: number): void {
    this.split.add(minor);
    this.env.log.error(`both copies behind ${devicePath(minor)} were written while they were apart`);
    this.wake();
  }

  /**
   * Decides and begins. Never waits.
   *
   * @returns ms after which to look again; null: no need
   */
  look(s: Snapshot, domains: ReadonlyMap<string, Observed>): number | null {
    const { replication, clock, node } = this.env;
    if (replication === undefined) return null;
    this.tendUse(replication);
    const mine = [...s.replicas].filter(([, k]) => hasCopy(k.value, node) || isFormer(k.value, node));
    const known = new Set(mine.map(([id]) => id));
    for (const map of [this.acts, this.openedMs, this.made, this.troubles, this.connectMs])
      for (const id of map.keys()) if (!known.has(id)) map.delete(id);
    for (const set of [this.oneWriter, this.second]) for (const id of set) if (!known.has(id)) set.delete(id);
    if (mine.length === 0 || this.use.text !== '') return null;
    this.tendWatch(replication);
    const calm = mine.every(([id]) => !this.troubles.has(id) && isCalm(this.pairs?.get(id)));
    const everyMs = this.toldDue ? toldLookMs : this.told && calm ? calmLookMs : lookMs;
    if (this.due || clock.nowMs() - this.lookedMs >= everyMs) void this.observe(replication);
    if (this.pairs !== null) for (const [id, k] of mine) this.one(id, k, s, domains);
    return everyMs;
  }

  stop(): void {
    this.stopping.abort();
  }

  /** Why the disks of that VM cannot be used now, in words; null: they can, or it has no copies. */
  waits(vm: string, s: Snapshot): string | null {
    const replica = s.replicas.get(vm)?.value;
    if (replica === undefined || this.env.replication === undefined) return null;
    const trouble = this.troubles.get(vm)?.text;
    const volumes = volumesOf(replica);
    const pair = this.pairs?.get(vm);
    const open = pair !== undefined && volumes.every((v) => pair.volumes.some((x) => x.volume === v.volume));
    if (!open) {
      if (this.use.text !== null && this.use.text !== '')
        return `its disks cannot be opened: ${this.use.text}`;
      return trouble ?? 'its disks are being opened';
    }
    if (pair.suspended)
      return trouble ?? 'its writes wait until the ledger has noted that the other copy is behind';
    const peer = otherNode(replica, this.env.node);
    const sinceMs = this.env.clock.nowMs() - (this.openedMs.get(vm) ?? -Infinity);
    if (pair.connection !== 'Connected' && s.lives.has(peer) && sinceMs < meetMs)
      return `waits for the copy on ${peer}`;
    return null;
  }

  /** What stands in the way of a new disk's copies, in words; null: nothing is known to. */
  making(vm: string, s: Snapshot): string | null {
    const replica = s.replicas.get(vm)?.value;
    if (replica === undefined) return null;
    const peer = otherNode(replica, this.env.node);
    return this.troubles.get(vm)?.text ?? `its disks are being made here and on ${peer}`;
  }

  /**
   * Before a live migration: both copies have every write, and nobody but the owner has them open. Nothing is waited for
   * where the VM has no copies.
   *
   * @throws FlotillaError `wrong-state`: not within half a minute, and why
   */
  async same(vm: string, s: Snapshot): Promise<void> {
    const untilMs = this.env.clock.nowMs() + sameMs;
    for (;;) {
      const why = await this.notSame(vm, s, 'Secondary');
      if (why === null) return;
      if (this.env.clock.nowMs() >= untilMs) throw unlike(s.specs.get(vm)?.value.name ?? vm, why);
      await this.env.clock.sleep(migrateLookMs * 5);
    }
  }

  /**
   * The source of a migration that the ledger knows of: lets the other node open the disks as well, and waits until it has.
   *
   * @param goesOn - false: the migration is to end
   * @throws FlotillaError `wrong-state`: it did not, or the copies are not the same any more
   */
  async shareWith(vm: string, s: Snapshot, goesOn: () => boolean): Promise<void> {
    const { replication, clock } = this.env;
    if (replication === undefined || !s.replicas.has(vm)) return;
    this.oneWriter.delete(vm);
    await replication.allowTwoPrimaries(vm, true);
    const untilMs = clock.nowMs() + secondMs;
    for (;;) {
      const why = await this.notSame(vm, s, 'Primary');
      if (why === null || !goesOn()) return;
      if (clock.nowMs() >= untilMs) throw unlike(s.specs.get(vm)?.value.name ?? vm, why);
      await clock.sleep(migrateLookMs);
    }
  }

  /**
   * Of a VM whose disks may be open on two nodes: why it must not go on, in words; null: both have every write.
   *
   * @param peerRole - what the other node should be to them; null: that does not matter
   */
  async notSame(
    vm: string,
    s: Snapshot,
    peerRole: PairSeen['peerRole'] | null = null,
  ): Promise<string | null> {
    const { replication, node } = this.env;
    const replica = s.replicas.get(vm)?.value;
    if (replication === undefined || replica === undefined) return null;
    const pair = (await replication.observe()).pairs.get(vm);
    const peer = otherNode(replica, node);
    if (pair === undefined || !pairSame(pair)) return `the copy on ${peer} does not have every write`;
    if (peerRole === null || pair.peerRole === peerRole) return null;
    return peerRole === 'Primary' ? `${peer} has not opened its copy` : `${peer} still has its copy open`;
  }

  /** Why a disk of a VM of this node cannot be enlarged now, in words; null: it can. */
  growWaits(disk: Disk, s: Snapshot): string | null {
    const replica = s.replicas.get(disk.vm)?.value ?? null;
    return cannotGrow(disk, { me: this.env.node, replica, pair: this.pairs?.get(disk.vm) ?? null });
  }

  /** Whether both copies of a new disk are there and the same. */
  paired(disk: Disk, s: Snapshot): boolean {
    const replica = s.replicas.get(disk.vm)?.value;
    return replica !== undefined && isPaired(disk.id, replica, this.pairs?.get(disk.vm) ?? null);
  }

  /** Writes a new disk's image to both copies. @throws FlotillaError `replica-refused`, and as `Volumes.fillDisk` */
  async fill(disk: Disk, pool: Pool, from: DiskFrom | null, s: Snapshot, o: WorkOptions): Promise<void> {
    const { replication, volumes } = this.env;
    const volume = s.replicas.get(disk.vm)?.value.volumes.find((v) => v.disk === disk.id);
    if (replication === undefined || volume === undefined)
      throw new FlotillaError('not-found', `Disk ${disk.name} has no pair`, { hint: 'Delete the VM.' });
    if (from === null) return;
    const device = devicePath(volume.minor);
    await this.whileOpen(disk.vm, o.signal, () => volumes.fillDisk(disk, pool, from, device, o));
  }

  /**
   * Has the disks of a VM that is off open here while something is done with them.
   *
   * @throws FlotillaError `replica-refused`, and what it throws
   */
  async whileOpen(vm: string, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    const { replication } = this.env;
    if (replication === undefined) return work();
    this.filling.set(vm, (this.filling.get(vm) ?? 0) + 1);
    try {
      if (!(await this.turns.wait(vm, this.env.clock, signal))) signal.throwIfAborted();
      await replication.promote(vm).finally(() => this.turns.end(vm));
      await work();
    } finally {
      // Its end as the one that writes comes with the next look.
      const left = (this.filling.get(vm) ?? 1) - 1;
      if (left === 0) this.filling.delete(vm);
      else this.filling.set(vm, left);
      this.acted(vm);
    }
  }

  /** How the disks of a VM of this node stand, for people. */
  words(vm: string, s: Snapshot): CopyWords[] {
    const replica = s.replicas.get(vm)?.value;
    if (replica === undefined) return [];
    const peer = otherNode(replica, this.env.node);
    const pair = this.pairs?.get(vm) ?? null;
    return volumesOf(replica).flatMap((v) => {
      const disk = s.disks.get(v.disk)?.value;
      if (disk === undefined) return [];
      const seen = pair?.volumes.find((x) => x.volume === v.volume);
      const bytesPerS = this.rate.of(v.minor);
      const split = this.split.has(v.minor) && !(pair && seen && areTogether(pair, seen));
      return [
        { disk: v.disk, name: disk.name, peer, ...replicaWords(pair, seen, { peer, split, bytesPerS }) },
      ];
    });
  }

  health(): Health[] {
    const bad = (text: string): Health => ({ part: 'replicas', ok: false, text: text.slice(0, 500) });
    const out: Health[] = [];
    if (this.lookFault !== null) out.push(bad(this.lookFault));
    if (this.unreadable.length > 0)
      out.push(bad(`DRBD says what is not understood: ${this.unreadable.slice(0, 2).join(' · ')}`));
    for (const t of [...this.troubles.values()].slice(0, 4)) out.push(bad(t.text));
    return out;
  }

  private acted(vm: string): void {
    this.acts.set(vm, ++this.count);
    this.due = true;
    this.wake();
  }

  private tendWatch(replication: Replication): void {
    const { clock } = this.env;
    const { signal } = this.stopping;
    if (this.watching || signal.aborted || clock.nowMs() - this.watchedMs < watchAgainMs) return;
    this.watching = true;
    const changed = (): void => {
      this.told = true;
      this.silent = false;
      this.toldDue = true;
      this.wake();
    };
    void replication
      .watch(changed, signal)
      .then(
        () => 'it ended',
        (e: unknown) => errorRecord(e).message,
      )
      .then((why) => {
        // Once, until it tells again: it is begun anew every few seconds.
        if (!signal.aborted && !this.silent) this.env.log.warn(`no changes of copies are told: ${why}`);
        this.silent = true;
        this.watching = false;
        this.told = false;
        this.watchedMs = clock.nowMs();
        this.wake();
      });
  }

  private tendUse(replication: Replication): void {
    const now = this.env.clock.nowMs();
    if (this.asking || this.use.text === '' || now - this.use.atMs < usableAgainMs) return;
    this.asking = true;
    void replication
      .usable()
      .then((u) => (u.ok ? '' : u.why))
      .catch((e: unknown) => errorRecord(e).message)
      .then((text) => {
        this.asking = false;
        this.use = { text: text.slice(0, 200), atMs: this.env.clock.nowMs() };
        this.wake();
      });
  }

  private async observe(replication: Replication): Promise<void> {
    if (this.looking) return;
    this.looking = true;
    this.due = this.toldDue = false;
    const began = this.env.clock.nowMs();
    const looked = ++this.count;
    try {
      const { pairs, unreadable } = await replication.observe();
      this.pairs = pairs;
      this.unreadable = unreadable;
      this.lookFault = null;
      this.rate.take(pairs, began);
      for (const p of pairs.values())
        for (const v of p.volumes) if (areTogether(p, v)) this.split.delete(v.minor);
    } catch (e) {
      this.pairs = null;
      this.lookFault = `the copies of disks here cannot be seen: ${errorRecord(e).message}`;
    } finally {
      this.lookedMs = began;
      this.looked = looked;
      this.looking = false;
      this.wake();
    }
  }

  private one(vm: string, k: Kept<Replica>, s: Snapshot, domains: ReadonlyMap<string, Observed>): void {
    const { env } = this;
    const now = env.clock.nowMs();
    const own = s.owns.get(vm)?.value ?? null;
    if (own?.state === 'migrating') this.oneWriter.delete(vm);
    if (own?.owner === this.env.node) this.second.delete(vm);
    if (this.looked < (this.acts.get(vm) ?? 0)) return;
    if ((this.troubles.get(vm)?.untilMs ?? -Infinity) > now) return;
    const pair = this.pairs?.get(vm) ?? null;
    if (!hasCopy(k.value, env.node)) {
      const own = s.owns.get(vm)?.value ?? null;
      const inUse = domains.get(vm)?.active === true;
      const step = decideFormer({ replica: k.value, own, me: env.node, pair, inUse });
      return this.begin(vm, step, k, s, pair);
    }
    this.tidyFormer(vm, k, s);
    const step = decideCopies({
      me: env.node,
      live: env.live.compare() !== null,
      replica: k.value,
      own,
      disks: { get: (id) => s.disks.get(id)?.value },
      pair,
      asRecorded: this.made.get(vm) === markOf(k.value),
      addresses: addressesNow(k.value, s),
      oneWriter: this.oneWriter.has(vm),
      inUse: domains.get(vm)?.active === true || this.filling.has(vm),
      ending: [...s.ops.values()].some(
        ({ value: o }) => o.subject.id === vm && o.kind === 'vm.delete' && !opFinished(o),
      ),
    });
    if (step.do === 'connect') {
      if (now - (this.connectMs.get(vm) ?? -Infinity) < connectAgainMs) return;
      this.connectMs.set(vm, now);
    }
    this.begin(vm, step, k, s, pair);
  }

  private begin(
    vm: string,
    step: CopiesStep | FormerStep,
    k: Kept<Replica>,
    s: Snapshot,
    pair: PairSeen | null,
  ): void {
    if (step.do === 'none') {
      this.troubles.delete(vm);
      return;
    }
    if (!this.turns.begin(vm)) return;
    void this.act(vm, step, k, s, pair)
      .then(() => this.troubles.delete(vm))
      .catch((e: unknown) => this.failed(vm, step, e, s))
      .finally(() => {
        this.acted(vm);
        this.turns.end(vm);
      });
  }

  private failed(vm: string, step: CopiesStep | FormerStep, e: unknown, s: Snapshot): void {
    const r = errorRecord(e);
    if (r.code === 'stale-view' || r.code === 'ledger-unavailable') return;
    const { clock, log } = this.env;
    const name = s.specs.get(vm)?.value.name ?? vm;
    const count = (this.troubles.get(vm)?.count ?? 0) + 1;
    const text = `${words[step.do]} of VM "${name}": ${r.message}`;
    if (count === 1) announce(this.env, 'warning', name, text);
    log.warn(text, { vm, causes: r.causes });
    const untilMs = clock.nowMs() + Math.min(againMsMax, againMs * 2 ** Math.min(count - 1, 6));
    this.troubles.set(vm, { count, untilMs, text: text.slice(0, 300) });
  }

  private async act(
    vm: string,
    step: CopiesStep | FormerStep,
    k: Kept<Replica>,
    s: Snapshot,
    pair: PairSeen | null,
  ): Promise<void> {
    const { env } = this;
    const { replication } = env;
    if (replication === undefined) return;
    const minors = (pair?.volumes ?? []).map((v) => v.minor);
    switch (step.do) {
      case 'none':
        return;
      case 'open': {
        for (const v of volumesOf(k.value)) {
          const disk = s.disks.get(v.disk)?.value;
          const pool = s.pools.get(v.pool)?.value;
          if (disk === undefined || pool === undefined)
            throw new FlotillaError('not-found', `disk ${v.disk} or its pool has no record`, { hint: '' });
          const format = step.make.includes(v) ? () => replication.make(k.value, v.volume) : null;
          await env.volumes.openCopy(disk, pool, format);
        }
        await replication.adjust(k.value);
        this.made.set(vm, markOf(k.value));
        this.openedMs.set(vm, env.clock.nowMs());
        this.oneWriter.add(vm);
        return;
      }
      case 'adjust':
        return this.adjust(vm, k.value, s, pair, replication);
      case 'close-volumes':
        for (const minor of step.minors) await replication.closeVolume(minor);
        return;
      case 'readdress':
        await this.readdress(vm, step.addresses, k, s);
        return;
      case 'ask': {
        const r = await new FenceJudge({ ...env, replication }).once(vm);
        if (r.ok) await replication.resume(minors);
        else await env.clock.sleep(lookMs);
        return;
      }
      case 'let-go':
        if (this.filling.has(vm)) return;
        if (pair?.suspended === true && !(await env.machine.isDead(vm)))
          throw new FlotillaError(
            'wrong-state',
            'its machine here does not die, and its writes stay frozen',
            {
              hint: 'Another node owns the VM. If it stays so, power this node off and on.',
            },
          );
        // Let go, frozen writes begin a history of their own. A copy that never ran has none to let go.
        if (pair?.suspended === true && !this.second.has(vm)) await replication.resume(minors);
        await replication.demote(vm);
        this.second.delete(vm);
        return;
      case 'connect':
        await replication.connect(vm, { discardMine: step.discardMine });
        this.oneWriter.add(vm);
        return;
      case 'open-second':
        return this.openSecond(vm, replication);
      case 'one-writer':
        await replication.allowTwoPrimaries(vm, false);
        this.oneWriter.add(vm);
        return;
      case 'skip-first-sync':
        for (const v of step.volumes) await replication.skipFirstSync(vm, v.volume);
        return;
      case 'note-sync':
        return this.noteSync(vm, k, s, replication);
      case 'note-behind':
        // A moment of copying may be over.
        if ((await this.notSame(vm, s)) === null) return;
        // As if the kernel had asked: the ledger must not call a copy the same that is half of another state.
        if ((await new FenceJudge({ ...env, replication }).once(vm)).ok)
          env.log.warn(`the other copy of the disks of VM ${vm} is behind: it is stale from now on`, { vm });
        return;
      case 'make-room':
        return this.makeRoom(step.volumes, k, s);
      case 'remove': {
        for (const v of step.volumes) await this.removeBelow(v, vm, s);
        const numbers = step.volumes.map((v) => v.volume);
        await env.ledger.txn(
          [{ key: kinds.replica.key(vm), modRevision: k.modRevision }],
          withoutVolumes(k.value, env.node, numbers),
        );
        return;
      }
      case 'close':
        return replication.down(vm);
      case 'drop':
        return this.drop(vm, k, s, replication);
    }
  }

  /**
   * As the record says. What breaks the connection leaves one copy for a moment: who writes says so in the ledger before, or its
   * kernel asks it to, because the other copy just falls silent. Where nobody writes nothing is to be said, and an owner whose
   * copy is half of another state could not say it: only connected anew does it become whole.
   */
  private async adjust(
    vm: string,
    r: Replica,
    s: Snapshot,
    pair: PairSeen | null,
    replication: Replication,
  ): Promise<void> {
    const connected = pair !== null && pair.connection !== 'StandAlone';
    if (connected && (await replication.reconnects(r))) {
      if (s.owns.get(vm)?.value.owner === this.env.node && pair.role === 'Primary') {
        const said = await new FenceJudge({ ...this.env, replication }).once(vm);
        if (!said.ok)
          throw new FlotillaError('wrong-state', `its copies cannot be connected anew yet: ${said.why}`, {
            hint: 'It is tried again by itself.',
          });
        await replication.disconnect(vm);
      } else await replication.cutOff(vm);
    }
    await replication.adjust(r);
    this.made.set(vm, markOf(r));
    this.oneWriter.add(vm);
  }

  private async readdress(
    vm: string,
    at: readonly [string, string],
    k: Kept<Replica>,
    s: Snapshot,
  ): Promise<void> {
    const mine = this.env.live.compare();
    const own = s.owns.get(vm);
    if (mine === null || own === undefined || s.meta === null) return;
    const nodes = k.value.nodes.map((n, i) => ({ ...n, address: at[i] ?? n.address }));
    await this.env.ledger.txn(
      [
        { key: kinds.replica.key(vm), modRevision: k.modRevision },
        { key: kinds.vmOwn.key(vm), modRevision: own.modRevision },
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
      ],
      [{ put: kinds.replica.key(vm), value: writeRecord(kinds.replica, { ...k.value, nodes }) }],
    );
  }

  /** Own is read afresh: one that has been broken off since finds the disks closed here. */
  private async openSecond(vm: string, replication: Replication): Promise<void> {
    const { ledger, node } = this.env;
    const kept = await ledger.get(kinds.vmOwn.key(vm));
    const pair = (await replication.observe()).pairs.get(vm);
    if (kept === null || pair === undefined) return;
    if (!mayOpenSecond(readRecord(kinds.vmOwn, kept.key, kept.value), node, pair)) return;
    // Asked for on both ends: the one may not have heard of it from the other yet.
    await replication.allowTwoPrimaries(vm, true);
    this.second.add(vm);
    await replication.promote(vm);
  }

  /** Reads own at a revision, then sees the pair, then swaps at that revision. @see safety 2 */
  private async noteSync(vm: string, k: Kept<Replica>, s: Snapshot, replication: Replication): Promise<void> {
    const { ledger, live, node } = this.env;
    const mine = live.compare();
    const kept = await ledger.get(kinds.vmOwn.key(vm));
    if (mine === null || kept === null || s.meta === null) return;
    const { pairs } = await replication.observe();
    const own = readRecord(kinds.vmOwn, kept.key, kept.value);
    const disks = syncedDisks({ replica: k.value, disks: { get: (id) => s.disks.get(id)?.value } });
    const next = decideSync(own, node, disks, pairs.get(vm) ?? null);
    if (next === null) return;
    const r = await ledger.txn(
      [
        { key: kept.key, modRevision: kept.modRevision },
        // What was seen is the pair of this record: meanwhile another node may have been given the second copy.
        { key: kinds.replica.key(vm), modRevision: k.modRevision },
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
      ],
      [{ put: kept.key, value: writeRecord(kinds.vmOwn, next) }],
    );
    if (!r.done || next.sync !== 'ok' || own.sync === 'ok') return;
    const peer = otherNode(k.value, node);
    announce(this.env, 'info', s.specs.get(vm)?.value.name ?? vm, `the copy on ${peer} is in sync`);
  }

  /** Of a node that was removed from the cluster nothing is left to take away, as far as the ledger goes. */
  private tidyFormer(vm: string, k: Kept<Replica>, s: Snapshot): void {
    const gone = (k.value.former ?? []).map((f) => f.node).filter((n) => !s.nodes.has(n));
    const own = s.owns.get(vm)?.value;
    if (gone.length === 0 || own?.owner !== this.env.node || this.tidied.has(k.modRevision)) return;
    this.tidied.add(k.modRevision);
    void this.env.ledger
      .txn([{ key: kinds.replica.key(vm), modRevision: k.modRevision }], recordWithout(k.value, gone))
      .catch(() => this.tidied.delete(k.modRevision));
  }

  private async removeBelow(v: ReplicaVolume, vm: string, s: Snapshot): Promise<void> {
    const pool = s.pools.get(v.pool)?.value;
    if (pool !== undefined) await this.env.volumes.removeDisk(goneDisk(v.disk, vm, v.pool), pool);
  }

  /** Below the copies that this node has of disks that are to grow; their owner enlarges the pair then. */
  private async makeRoom(volumes: readonly ReplicaVolume[], k: Kept<Replica>, s: Snapshot): Promise<void> {
    const { node } = this.env;
    const rooms = new Map<number, number>();
    for (const v of volumes) {
      const disk = s.disks.get(v.disk)?.value;
      const pool = s.pools.get(v.pool)?.value;
      if (disk === undefined || pool === undefined) continue;
      await this.env.volumes.growDisk(disk, pool);
      rooms.set(v.volume, disk.sizeBytes);
    }
    const next = k.value.volumes.map((v) => {
      const sizeBytes = rooms.get(v.volume);
      return sizeBytes === undefined ? v : { ...v, room: { node, sizeBytes } };
    });
    const key = kinds.replica.key(k.value.vm);
    await this.env.ledger.txn(
      [{ key, modRevision: k.modRevision }],
      [{ put: key, value: writeRecord(kinds.replica, { ...k.value, volumes: next }) }],
    );
  }

  private async drop(vm: string, k: Kept<Replica>, s: Snapshot, replication: Replication): Promise<void> {
    const { node, ledger } = this.env;
    await replication.down(vm);
    for (const v of k.value.volumes) await this.removeBelow(v, vm, s);
    await ledger.txn(
      [{ key: kinds.replica.key(vm), modRevision: k.modRevision }],
      hasCopy(k.value, node) ? withoutCopy(k.value, node) : recordWithout(k.value, [node]),
    );
    if (!hasCopy(k.value, node))
      announce(this.env, 'info', s.specs.get(vm)?.value.name ?? vm, 'its replaced copy here was taken away');
  }
}

const words: Record<CopiesStep['do'] | FormerStep['do'], string> = {
  none: '',
  open: 'opening the copies',
  ask: 'asking for the frozen writes',
  'close-volumes': 'closing a disk that was removed',
  readdress: 'noting where the copies are reached',
  adjust: 'connecting the copies anew',
  'let-go': 'letting go of the disks',
  connect: 'connecting the copies',
  'open-second': 'opening the disks for the migration',
  'one-writer': 'closing the disks to a second writer',
  'skip-first-sync': 'pairing the new disks',
  'note-sync': 'noting the copies as in sync',
  'note-behind': 'noting that the other copy is behind',
  'make-room': 'making room for a larger disk',
  remove: 'removing the copies of a disk',
  close: 'closing a copy that was replaced',
  drop: 'removing the copies',
};

/** What of a record a pair is made from. */
const markOf = (r: Replica): string =>
  JSON.stringify([r.port, r.nodes, volumesOf(r).map(({ volume, minor, below }) => [volume, minor, below])]);

function addressesNow(r: Replica, s: Snapshot): readonly [string, string] | null {
  const [a, b] = r.nodes.map((n) => s.nodes.get(n.node)?.value);
  return a === undefined || b === undefined ? null : copyAddresses(a, b);
}

const isFormer = (r: Replica, node: string): boolean => r.former?.some((f) => f.node === node) === true;

/** Former copies that are no more; with the last copy of a deleted VM the record goes, too. */
function recordWithout(r: Replica, nodes: readonly string[]): Write[] {
  const { former = [], ...rest } = r;
  const left = former.filter((f) => !nodes.includes(f.node));
  const next: Replica = left.length === 0 ? rest : { ...r, former: left };
  return gone(next) ?? [{ put: kinds.replica.key(r.vm), value: writeRecord(kinds.replica, next) }];
}

/** What is written when nothing of a VM's copies is left; null: something is. */
function gone(r: Replica): Write[] | null {
  if (r.volumes.some((v) => v.deleting?.length !== 0) || (r.former ?? []).length > 0) return null;
  return [
    { del: kinds.replica.key(r.vm) },
    { del: unique.replicaPort(r.port) },
    ...r.volumes.map((v) => ({ del: unique.minor(v.minor) })),
  ];
}

/** What is written when a node has taken its copies of a deleted VM away: with the last of them the record goes, too. */
export function withoutCopy(r: Replica, node: string): Write[] {
  const volumes = r.volumes.map((v) => ({
    ...v,
    deleting: (v.deleting ?? r.nodes.map((n) => n.node)).filter((n) => n !== node),
  }));
  const next = { ...r, volumes };
  return gone(next) ?? [{ put: kinds.replica.key(r.vm), value: writeRecord(kinds.replica, next) }];
}

/** What is written when a node has taken its copies of some disks away: with the last of each its number is free again. */
function withoutVolumes(r: Replica, node: string, numbers: readonly number[]): Write[] {
  const free: Write[] = [];
  const volumes = r.volumes.flatMap((v) => {
    if (!numbers.includes(v.volume)) return [v];
    const deleting = (v.deleting ?? []).filter((n) => n !== node);
    if (deleting.length > 0) return [{ ...v, deleting }];
    free.push({ del: unique.minor(v.minor) });
    return [];
  });
  const value = writeRecord(kinds.replica, { ...r, volumes });
  return [...free, { put: kinds.replica.key(r.vm), value }];
}

const unlike = (name: string, why: string): FlotillaError =>
  new FlotillaError('wrong-state', `VM "${name}" stays where it is: ${why}`, {
    hint: 'See how its copies stand: flotilla vm show. Ask again when they are in sync.',
  });

/** Connected is said while the two still find out whether they fit, too. */
const areTogether = (pair: PairSeen, v: VolumeSeen): boolean =>
  pair.connection === 'Connected' && v.replication !== 'Off';

/** Nothing is to be done for it, and nothing under way whose end would not be told. */
const isCalm = (pair: PairSeen | undefined): boolean => pair !== undefined && pairSame(pair);

/** A disk of which only its volume is left. */
const goneDisk = (id: string, vm: string, pool: string): Disk => ({
  id,
  name: id,
  vm,
  pool,
  replicas: 2,
  node: null,
  format: 'raw',
  sizeBytes: 0,
  madeBytes: 0,
  source: { kind: 'blank' },
  state: 'deleting',
  error: null,
});

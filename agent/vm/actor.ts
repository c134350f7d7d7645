import type { VmStep } from '../../core/decide/vm-view.js';
import type { HotStep } from '../../core/decide/hardware.js';
import { lockstepAfter } from '../../core/decide/lockstep.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { protectionLevel, type FailoverPhase } from '../../core/domain/ha.js';
import { withoutVolume } from '../../core/decide/replica-edit.js';
import { deviceId, isReplicated, type Disk } from '../../core/domain/disk.js';
import type { Pool } from '../../core/domain/pool.js';
import type { PairSeen, Replica } from '../../core/domain/replica.js';
import { FenceJudge } from '../drbd/fence-door.js';
import type { Kept } from '../snapshot.js';
import { relocateArgsSchema } from '../../core/domain/drain.js';
import { opFinished, type Op, type OpKind } from '../../core/domain/op.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, unique, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import { LibvirtError } from '../libvirt/hypervisor.js';
import { withoutCopy } from '../replica/replica-desk.js';
import type { OpBook } from '../op-book.js';
import { cdromXml, diskXml, domainXml, nicXml, targetIn, targets } from './domain-xml.js';
import { putDisk } from './disk-maker.js';
import { failedOver, failoverOp } from '../ha/failover-op.js';
import { rolesSwapped, staleView, type Ownership, type Subject } from './ownership.js';
import { seedSpec } from '../vapp/seed-spec.js';
import { wantedHardware } from './want.js';

/** How long QEMU may take to come up: a cold cache and a loaded node take seconds, a hung pool takes for ever. */
const startDeadlineMs = 60_000;

/** A pair becomes larger within this, ms, and so often one looks. */
const growMs = 30_000;
const growLookMs = 250;

/** A machine ends within this, ms; one that does not may hang in a write that is frozen. */
const quickEndMs = 3_000;
const endLookMs = 250;

const unarmed: VmOwn['fence'] = { armed: false, waitMs: 0 };

/** Fetching an ISO of a few GB from another node over a slow network. */
const isoDeadlineMs = 30 * 60_000;
/** The same from a node that is gone: only whether a copy is here already, which a pool tells within this. */
const isoGoneMs = 5_000;

/** Who is told of a VM that a migration brought. */
export interface Arrivals {
  /** Its guest goes on here. */
  wentOn(s: Subject): void;
}

/**
 * Does the steps that {@link decideVm} chose. Each is written so that a crash at any line leaves something the
 * next pass understands: ledger first where it permits, ledger last where it reports.
 */
export class VmActor {
  private readonly env: AgentEnv;
  private readonly ops: OpBook;
  private readonly own: Ownership;
  private readonly onPhase: (vmId: string, phase: FailoverPhase) => void;
  private readonly arrivals: Arrivals;

  /**
   * @param onPhase - told how far a start is: what a failover's timeline is made of
   * @param arrivals - told of VMs that migrate here
   */
  constructor(
    env: AgentEnv,
    ops: OpBook,
    own: Ownership,
    onPhase: (vmId: string, phase: FailoverPhase) => void = () => undefined,
    arrivals: Arrivals = { wentOn: () => undefined },
  ) {
    this.env = env;
    this.ops = ops;
    this.own = own;
    this.onPhase = onPhase;
    this.arrivals = arrivals;
  }

  /**
   * Does one step.
   *
   * @throws FlotillaError, LibvirtError. `edit-conflict` and `stale-view`: the ledger moved on meanwhile; look again
   */
  async act(step: VmStep, s: Subject): Promise<void> {
    const { env } = this;
    const h = env.hypervisor;
    switch (step.do) {
      case 'none':
        return;
      case 'start':
        return this.start(s, step);
      case 'adopt':
        return this.adopt(s);
      case 'take-in':
        return this.takeIn(s, step.paused);
      case 'arm': {
        const { waitMs } = await this.own.arm(s);
        return this.change(s, { fence: { armed: true, waitMs } });
      }
      case 'disarm':
        // The ledger first: a standby must not count on a freeze that will not come.
        if (s.own.value.fence.armed) await this.change(s, { fence: unarmed });
        return env.keeper.disarm(s.id);
      case 'set-standby': {
        const live = step.node === null ? undefined : s.snapshot.lives.get(step.node);
        if (step.node !== null && live === undefined) throw staleView(s);
        const compare =
          live === undefined
            ? []
            : [{ key: kinds.live.key(step.node ?? ''), createRevision: live.createRevision }];
        return this.change(s, { standby: step.node, sync: step.node === null ? 'none' : 'ok' }, compare);
      }
      case 'reset-hung':
        env.log.warn(`resets VM "${s.spec.value.name}": its guest hangs`, { vm: s.id });
        return h.reset(s.id);
      case 'ask-stop':
        return ignoreGone(h.stop(s.id, step.how));
      case 'destroy':
        env.log.info(`forces VM "${s.spec.value.name}" off: ${step.why}`, { vm: s.id });
        return ignoreGone(h.stop(s.id, 'destroy'));
      case 'settle':
        return this.settle(s, step.powerOff);
      case 'pause':
        return h.suspend(s.id);
      case 'resume':
        return h.resume(s.id);
      case 'reboot':
      case 'reset': {
        const kept = s.snapshot.ops.get(step.op.id);
        if (kept === undefined) return;
        // Marked before it is sent: an agent that dies in between does not send it twice.
        const marked = await this.ops.change(kept, { state: 'running', step: 'asks the machine' });
        if (marked === null) throw staleView(s);
        return step.do === 'reset' ? h.reset(s.id) : h.reboot(s.id, step.how);
      }
      case 'apply':
        return this.apply(step.step, s);
      case 'grow-disk':
        return this.grow(step.disk, step.live, s);
      case 'remove-disk':
        return this.removeDisk(step.disk, s);
      case 'yield':
        return this.yield(s, step);
      case 'delete':
        return this.delete(s);
      case 'relocate':
        return this.relocate(s, step.op);
      case 'remove-foreign':
        env.log.warn(`removes VM ${s.id} from this node: ${s.own.value.owner} owns it`, { vm: s.id });
        if (s.domain?.active === true) await this.endForeign(s.id);
        await this.undefine(s.id);
        return this.own.record(s, s.own.value);
    }
  }

  /**
   * Makes this node the one that writes. A former owner whose lease is gone, but which is still connected and writes, is
   * frozen: it is cut off, as it would refuse for as long as it does not hear the ledger. What it writes from then on
   * nobody is told of. Only after its time was waited out, which is what made its copy stale and this node the owner.
   *
   * What a migration that came to nothing had opened here is closed first, so that the kernel asks the ledger once more.
   */
  private async openCopy(s: Subject): Promise<void> {
    const { replication, log } = this.env;
    const peer = s.own.value.copies.find((c) => c.node !== this.env.node);
    if (replication === undefined) return;
    const pair = (await replication.observe()).pairs.get(s.id);
    if (pair?.role === 'Primary') await replication.demote(s.id);
    if (peer?.state === 'stale' && !s.snapshot.lives.has(peer.node)) {
      if (pair?.connection === 'Connected' && pair.peerRole === 'Primary') {
        if (pair.role === 'Primary') await replication.allowTwoPrimaries(s.id, false);
        log.warn(
          `VM "${s.spec.value.name}": its disks are cut off from ${peer.node}, which is frozen with them`,
        );
        await replication.cutOff(s.id);
      }
    }
    await replication.promote(s.id);
  }

  /**
   * Ends a machine that is no longer this node's. One whose writes are frozen in the kernel cannot die before they have
   * ended, so they are let go once it has been told to die for certain: nothing of it runs any more, and what it wrote
   * {@link ReplicaDesk} gives up. Until then they stay frozen. @see safety 7
   */
  private async endForeign(id: string): Promise<void> {
    const { replication, clock, machine } = this.env;
    const ended = ignoreGone(this.env.hypervisor.stop(id, 'destroy'));
    if (replication === undefined) return ended;
    let over = false;
    const watched = ended.finally(() => (over = true));
    watched.catch(() => undefined);
    const quickMs = clock.nowMs() + quickEndMs;
    while (!over) {
      await clock.sleep(endLookMs);
      if (over || clock.nowMs() < quickMs || !(await machine.isDead(id))) continue;
      const pair = (await replication.observe()).pairs.get(id);
      if (pair?.suspended === true) await replication.resume(pair.volumes.map((v) => v.minor));
    }
    return watched;
  }

  private async start(s: Subject, step: Extract<VmStep, { do: 'start' }>): Promise<void> {
    const { env } = this;
    const spec = s.spec.value;
    // All that can be refused or take long comes before the swap.
    const networks = new Map([...s.snapshot.networks].map(([id, k]) => [id, k.value]));
    const seed =
      spec.cloudInit === null
        ? null
        : await env.seeds.make(await seedSpec(env.ledger, s.snapshot, spec), networks);
    const cdroms = await this.discs(s);
    const disks = spec.disks.filter((d) => s.snapshot.disks.get(d.disk)?.value.state === 'ready');
    const hardware = wantedHardware(
      { ...spec, cdroms, disks },
      s.snapshot,
      env.volumes,
      seed,
      env.machine.cpuTune(),
    );
    for (const { disk: id } of disks) await this.openDisk(id, s);
    const accel = await env.machine.accel();
    for (const nic of spec.nics) {
      const network = networks.get(nic.network);
      if (network !== undefined) await env.bridges.ensure(network);
    }
    await env.sockets.prepare(s.id);
    const fence = step.arm ? await this.tryArm(s) : unarmed;
    const { fence: last } = s.own.value;
    // A lock that is held for minutes must not cost a generation each second.
    const again = step.again && fence.armed === last.armed && fence.waitMs <= last.waitMs;
    const gen = again ? s.own.value.gen : s.own.value.gen + 1;
    const inLockstep = protectionLevel(spec.ha) === 'lockstep' && env.lockstep !== undefined;
    if (again) await this.own.confirm(s);
    else {
      const pair = lockstepAfter(s.own.value, inLockstep);
      await this.own.swap(s, { ...s.own.value, gen, state: 'running', fence, fresh: false, ...pair });
    }
    if (fence.armed) await this.own.leaveTakeover(s, gen);
    // Only the owner writes; where the other copy is out of reach the kernel asks the ledger before it agrees.
    if (s.snapshot.replicas.has(s.id)) await this.openCopy(s);
    this.onPhase(s.id, 'disk-ready');
    // A fresh object: what libvirt remembers of the last run (why it went off) must not be taken for this one's.
    if (s.domain !== null) await this.undefine(s.id, true);
    await env.hypervisor.define(
      domainXml({
        id: s.id,
        name: spec.name,
        hardware,
        accel,
        mark: { gen, generation: spec.generation, startedMs: env.clock.wallMs() },
        paths: env.sockets.paths(s.id),
        inSlice: step.inSlice,
        lockstep: inLockstep,
      }),
    );
    // Between the swap and the machine lie seconds, on a bad night a minute: the lease may have gone and come back
    // meanwhile, and the VM with it. So it is born paused, and goes on only if the keeper counts it still; from then
    // on the machine is there, and the keeper finds it whatever happens next. One that nobody armed, which another
    // node gets on proof alone, goes on with the next pass: that one has read own since.
    const paused = step.paused || step.inSlice || fence.armed;
    await env.hypervisor.start(s.id, { paused, deadlineMs: startDeadlineMs });
    if (fence.armed && !(await env.keeper.holds(s.id))) {
      await ignoreGone(env.hypervisor.stop(s.id, 'destroy'));
      throw staleView(s);
    }
    if (paused && !step.paused) {
      if (!fence.armed) return;
      await env.hypervisor.resume(s.id);
    }
    this.onPhase(s.id, 'running');
  }

  /**
   * The CD drives it starts with. One whose image lies on a node that is gone stays empty where the VM has HA: it is to
   * come back without that node, and boots from its disks. The disc is put in when it can be had.
   */
  private async discs(s: Subject): Promise<VmSpec['cdroms']> {
    const { name, cdroms, disks, ha } = s.spec.value;
    const out: VmSpec['cdroms'] = [];
    for (const cd of cdroms) {
      try {
        await this.haveImage(cd.image, s);
        out.push(cd);
      } catch (e) {
        if (!ha.enabled || disks.length === 0 || !this.isLost(cd.image, s)) throw e;
        this.env.log.warn(`VM "${name}" starts with an empty CD drive: ${errorRecord(e).message}`, {
          vm: s.id,
        });
        out.push({ image: null });
      }
    }
    return out;
  }

  /** Its only file is on a node that is not alive. */
  private isLost(id: string | null, s: Subject): boolean {
    const node = (id === null ? undefined : s.snapshot.images.get(id)?.value)?.node ?? null;
    return node !== null && node !== this.env.node && !s.snapshot.lives.has(node);
  }

  /** Without a keeper that would arm it a VM is still started: unprotected, and its page says so. */
  private async tryArm(s: Subject): Promise<VmOwn['fence']> {
    try {
      const { waitMs } = await this.own.arm(s);
      return { armed: true, waitMs };
    } catch (e) {
      if (!(e instanceof FlotillaError) || e.code !== 'not-armable') throw e;
      this.env.log.warn(`VM "${s.spec.value.name}" is started unprotected: ${e.message}`, { vm: s.id });
      return unarmed;
    }
  }

  /** Writes the next generation of the ownership, and marks a running machine with it. */
  private async change(s: Subject, patch: Partial<VmOwn>, compare: Compare[] = []): Promise<void> {
    const gen = s.own.value.gen + 1;
    await this.own.swap(s, { ...s.own.value, ...patch, gen }, { compare });
    if (s.domain?.active === true) await this.own.mark(s, gen);
  }

  private async openDisk(id: string, s: Subject): Promise<void> {
    const disk = s.snapshot.disks.get(id)?.value;
    const pool = disk && s.snapshot.pools.get(disk.pool)?.value;
    // The copies are open as long as the node is up.
    if (pool !== undefined && !isReplicated(disk as Disk))
      await this.env.volumes.openDisk(disk as Disk, pool);
  }

  /** An ISO may lie in the local pool of another node. */
  private async haveImage(id: string | null, s: Subject): Promise<void> {
    const image = id === null ? undefined : s.snapshot.images.get(id)?.value;
    const pool = image && s.snapshot.pools.get(image.pool)?.value;
    if (image === undefined || pool === undefined) return;
    await this.env.volumes.haveImage(image, pool, {
      signal: AbortSignal.timeout(this.isLost(id, s) ? isoGoneMs : isoDeadlineMs),
      progress: () => undefined,
    });
  }

  private async adopt(s: Subject): Promise<void> {
    // One that a migration brought is this node's as own stands; by another generation it would be nobody's until it is marked.
    if (s.domain?.mark?.incoming === true) {
      await this.own.record(s, s.own.value);
      return this.own.mark(s, s.own.value.gen);
    }
    const gen = s.own.value.gen + 1;
    await this.own.swap(s, { ...s.own.value, gen, state: 'running' });
    await this.own.mark(s, gen);
  }

  /**
   * Lets the copy that a migration brought go on. As at a start nothing runs before the journal has its generation and
   * the keeper counts it; it stands still until then.
   */
  private async takeIn(s: Subject, paused: boolean): Promise<void> {
    const { env } = this;
    let { gen, fence } = s.own.value;
    const journal = this.own.record(s, s.own.value);
    // It is waited for below; a fault that comes before is no unheard one.
    journal.catch(() => undefined);
    if (fence.armed && !(await this.tryArm(s)).armed) {
      // Nobody may count on a freeze that will not come. Should this agent die now, the copy is not taken in any more.
      gen++;
      fence = unarmed;
      await this.own.swap(s, { ...s.own.value, gen, fence });
      // By what own says now no copy is this node's: a guest that went on as one would be ended as one.
      await this.own.mark(s, gen);
    }
    await journal;
    if (fence.armed && !(await env.keeper.holds(s.id))) throw staleView(s);
    if (s.domain?.state === 'paused' && !paused) await env.hypervisor.resume(s.id);
    this.arrivals.wentOn(s);
    // The source stands still by its own doing and holds no lock: nobody need wait for the pool's drives. Until the machine has
    // its mark, the next agent would do all this once more.
    if (fence.armed) await this.own.leaveTakeover(s, gen);
    await this.own.mark(s, gen);
  }

  /**
   * Gives it to its standby, off: nothing of it is here any more, so nothing is to be waited for. The keeper is told by
   * the next pass, which finds it armed for what is another node's.
   */
  private async yield(s: Subject, step: Extract<VmStep, { do: 'yield' }>): Promise<void> {
    const { env } = this;
    const { to } = step;
    const live = s.snapshot.lives.get(to);
    const node = s.snapshot.nodes.get(to);
    if (live === undefined || node === undefined) throw staleView(s);
    if (s.domain?.active === true) await ignoreGone(env.hypervisor.stop(s.id, 'destroy'));
    await this.undefine(s.id, true);
    if (s.snapshot.replicas.has(s.id)) await env.replication?.demote(s.id);
    const own = s.own.value;
    const beganMs = env.clock.wallMs() - Math.round(env.clock.nowMs() - step.sinceMs);
    const op = failoverOp(env, s, {
      askedBy: `owner ${env.node}`,
      step: `given over by ${env.node}: ${step.why}`.slice(0, 200),
      args: {
        from: env.node,
        to,
        fence: 'owner',
        atMs: Math.max(0, beganMs),
        phasesMs: { owned: Math.round(env.clock.nowMs() - step.sinceMs) },
      },
    });
    await this.own.swap(
      s,
      {
        ...own,
        owner: to,
        // Chosen anew by its owner once it runs; copies of disks are where they are, and the same.
        ...(own.copies.length > 0 ? { standby: env.node } : { standby: null, sync: 'none' as const }),
        gen: own.gen + 1,
        state: 'stopped',
        fence: unarmed,
        migration: null,
        fresh: false,
        failoversMs: failedOver(own, env.clock.wallMs()),
      },
      {
        compare: [
          { key: kinds.live.key(to), createRevision: live.createRevision },
          { key: kinds.node.key(to), modRevision: node.modRevision },
        ],
        writes: [{ put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) }],
      },
    );
    env.radio.say('op', op, op.id);
  }

  private async settle(s: Subject, powerOff: boolean): Promise<void> {
    const own: VmOwn = {
      ...s.own.value,
      gen: s.own.value.gen + 1,
      state: 'stopped',
      fence: unarmed,
      ...lockstepAfter(s.own.value, false),
    };
    if (!powerOff) return void (await this.own.swap(s, own));
    const generation = s.spec.value.generation + 1;
    const spec: VmSpec = { ...s.spec.value, power: 'stopped', generation, powerGeneration: generation };
    const key = kinds.vmSpec.key(s.id);
    await this.own.swap(s, own, {
      compare: [{ key, modRevision: s.spec.modRevision }],
      writes: [{ put: key, value: writeRecord(kinds.vmSpec, spec) }],
    });
  }

  /** Gives a VM that is off to another node. Nothing of it runs, so the new owner needs no proof but the ledger's word. */
  private async relocate(s: Subject, op: Op): Promise<void> {
    const { name } = s.spec.value;
    const kept = s.snapshot.ops.get(op.id);
    const args = relocateArgsSchema.safeParse(op.args).data;
    if (kept === undefined) throw staleView(s);
    const live = args === undefined ? undefined : s.snapshot.lives.get(args.to);
    const node = args === undefined ? undefined : s.snapshot.nodes.get(args.to);
    if (args === undefined || live === undefined || node === undefined)
      throw new FlotillaError(
        'node-unreachable',
        `VM "${name}" is not relocated: ${args?.to ?? 'its target'} is not alive`,
        { hint: 'Choose another node.' },
      );
    if (node.value.desired !== 'active')
      throw new FlotillaError(
        'wrong-state',
        `VM "${name}" is not relocated: ${args.to} is in maintenance or leaves`,
        { hint: 'Choose another node, or ask again when that one is active.' },
      );
    const next: Op = {
      ...op,
      state: 'done',
      step: `is on ${args.to}`,
      progress: 1,
      updatedMs: this.env.clock.wallMs(),
    };
    const before = s.own.value;
    const copied = before.copies.length > 0;
    if (copied) await this.letGo(s, args.to);
    const own: VmOwn = {
      ...before,
      owner: args.to,
      ...(copied ? rolesSwapped(before, args.to) : { standby: null, sync: 'none' as const }),
      gen: s.own.value.gen + 1,
      fence: unarmed,
      migration: null,
    };
    await this.own.swap(s, own, {
      compare: [
        { key: kinds.live.key(args.to), createRevision: live.createRevision },
        { key: kinds.node.key(args.to), modRevision: node.modRevision },
        { key: kinds.vmSpec.key(s.id), modRevision: s.spec.modRevision },
        { key: kinds.op.key(op.id), modRevision: kept.modRevision },
      ],
      writes: [{ put: kinds.op.key(op.id), value: writeRecord(kinds.op, next) }],
    });
    this.env.radio.say('op', next, op.id);
  }

  /** Closes the disks here, for a node that has every write. @throws FlotillaError `wrong-state` */
  private async letGo(s: Subject, to: string): Promise<void> {
    const { copies, sync } = s.own.value;
    if (sync !== 'ok' || !copies.some((c) => c.node === to))
      throw new FlotillaError(
        'wrong-state',
        `VM "${s.spec.value.name}" is not relocated: ${to} has no copy of its disks with every write`,
        { hint: 'Wait until its copies are in sync: flotilla vm show.' },
      );
    await this.env.replication?.demote(s.id);
  }

  private async apply(step: HotStep, s: Subject): Promise<void> {
    const h = this.env.hypervisor;
    // The definition is made afresh at each start, so only the running machine is changed.
    const o = { live: true };
    switch (step.do) {
      case 'attach-disk': {
        const used = new Set(targets(s.domain?.hardware.disks ?? []).values());
        const prefix = step.disk.bus === 'virtio' ? 'vd' : 'sd';
        const taken = await this.usedTargets(s.id);
        const dev = freeTarget(prefix, new Set([...used, ...taken]));
        const disk = ofDevice(s, step.disk.id);
        if (disk !== undefined) await this.openDisk(disk.id, s);
        // Its first disk with two copies: so far nobody wrote to them.
        if (disk !== undefined && isReplicated(disk)) await this.env.replication?.promote(s.id);
        return h.attachDevice(s.id, diskXml(step.disk, dev), o);
      }
      case 'detach-disk': {
        const dev = await this.targetOf(s.id, `ua-disk-${step.disk.id}`);
        if (dev === null) return;
        return h.detachDevice(s.id, diskXml(step.disk, dev), o);
      }
      case 'attach-nic':
        for (const n of s.snapshot.networks.values())
          if (n.value.bridge === step.nic.bridge) await this.env.bridges.ensure(n.value);
        return h.attachDevice(s.id, nicXml(step.nic), o);
      case 'detach-nic':
        return h.detachDevice(s.id, nicXml(step.nic), o);
      case 'set-cdrom': {
        await this.haveImage(s.spec.value.cdroms[step.index]?.image ?? null, s);
        const sata = (s.domain?.hardware.disks ?? []).filter((d) => d.bus === 'sata').length;
        return h.updateDevice(s.id, cdromXml(step.path, step.index, sata), { ...o, force: true });
      }
      case 'set-cpus':
        return h.setVcpus(s.id, step.cpus, o);
      case 'set-memory':
        return h.setMemory(s.id, step.memoryMiB * 1024, o);
      case 'set-cpu-tune':
        return h.setCpuTune(s.id, { shares: step.cpuShares, quotaUs: step.cpuQuotaUs }, o);
    }
  }

  private async usedTargets(id: string): Promise<string[]> {
    const xml = await this.env.hypervisor.xml(id);
    return [...xml.matchAll(/<target dev='([a-z]+)'/g)].map((m) => m[1] ?? '');
  }

  private async targetOf(id: string, alias: string): Promise<string | null> {
    return targetIn(await this.env.hypervisor.xml(id), alias);
  }

  private async grow(disk: Disk, live: boolean, s: Subject): Promise<void> {
    const kept = s.snapshot.disks.get(disk.id);
    const pool = s.snapshot.pools.get(disk.pool);
    if (kept === undefined || pool === undefined) throw staleView(s);
    if (live) {
      const dev = await this.targetOf(s.id, `ua-disk-${deviceId(disk)}`);
      if (dev === null) throw staleView(s);
      // A file grows with its machine, a volume before it.
      if (isReplicated(disk)) await this.growPair(disk, pool.value, s);
      else if (pool.value.kind === 'thin') await this.env.volumes.growDisk(disk, pool.value);
      const device = pool.value.kind === 'thin';
      await this.env.hypervisor.blockResize(s.id, dev, device ? null : disk.sizeBytes);
    } else if (isReplicated(disk)) {
      await this.growPair(disk, pool.value, s);
    } else {
      await this.env.volumes.growDisk(disk, pool.value);
    }
    await putDisk(this.env, kept, { ...disk, madeBytes: disk.sizeBytes });
  }

  /**
   * Here there is room on the other node already. What is new is copied from here, so the other copy is behind until that is
   * done: the ledger says so before.
   */
  private async growPair(disk: Disk, pool: Pool, s: Subject): Promise<void> {
    const { env } = this;
    const { replication } = env;
    const volume = s.snapshot.replicas.get(s.id)?.value.volumes.find((v) => v.disk === disk.id);
    if (replication === undefined || volume === undefined) throw staleView(s);
    const look = async (): Promise<PairSeen | undefined> => (await replication.observe()).pairs.get(s.id);
    await env.volumes.growDisk(disk, pool);
    const sizeOf = (p: PairSeen | undefined): number =>
      p?.volumes.find((v) => v.volume === volume.volume)?.sizeBytes ?? 0;
    const before = await look();
    if (sizeOf(before) >= disk.sizeBytes) return;
    if (!(await new FenceJudge({ ...env, replication }).once(s.id)).ok) throw staleView(s);
    // It ends with the next look where no machine is there.
    if (before?.role !== 'Primary') await replication.promote(s.id);
    await replication.resize(s.id, volume.volume);
    // The kernel has only begun: it asks the other one, and writes its notes to their new place.
    const untilMs = env.clock.nowMs() + growMs;
    do {
      if (sizeOf(await look()) >= disk.sizeBytes) return;
      await env.clock.sleep(growLookMs);
    } while (env.clock.nowMs() < untilMs);
    throw new FlotillaError('wrong-state', `Disk "${disk.name}" has not become larger`, {
      hint: 'Is there room in its pool on both nodes? It is tried again by itself.',
    });
  }

  private async removeDisk(disk: Disk, s: Subject): Promise<void> {
    const kept = s.snapshot.disks.get(disk.id);
    const pool = s.snapshot.pools.get(disk.pool);
    if (kept === undefined) return;
    const replica = s.snapshot.replicas.get(s.id);
    if (isReplicated(disk) && replica !== undefined) return this.removePair(disk, kept, replica, s);
    if (pool !== undefined) await this.env.volumes.removeDisk(disk, pool.value);
    const key = kinds.disk.key(disk.id);
    const r = await this.env.ledger.txn([{ key, modRevision: kept.modRevision }], [{ del: key }]);
    if (!r.done) throw staleView(s);
  }

  /** From now on it is not the VM's; each node takes its copy away when it can. */
  private async removePair(disk: Disk, kept: Kept<Disk>, replica: Kept<Replica>, s: Subject): Promise<void> {
    const [own, next] = withoutVolume(s.own.value, replica.value, disk.id);
    const key = kinds.disk.key(disk.id);
    await this.own.swap(s, own, {
      compare: [
        { key, modRevision: kept.modRevision },
        { key: kinds.replica.key(s.id), modRevision: replica.modRevision },
      ],
      writes: [{ del: key }, { put: kinds.replica.key(s.id), value: writeRecord(kinds.replica, next) }],
    });
  }

  /** Takes everything of a VM away: domain, files, then all its keys in one transaction. */
  private async delete(s: Subject): Promise<void> {
    const { env } = this;
    const spec = s.spec.value;
    this.own.guard(s);
    await this.undefine(s.id);
    const disks = [...s.snapshot.disks.values()].filter((d) => d.value.vm === s.id);
    const snapshots = [...s.snapshot.vmSnapshots.values()].filter(
      // A template's stay with that.
      (x) => x.value.vm === s.id && x.value.template === undefined,
    );
    const replica = s.snapshot.replicas.get(s.id);
    if (replica !== undefined) await env.replication?.down(s.id);
    for (const d of disks) {
      const pool = s.snapshot.pools.get(d.value.pool);
      if (pool !== undefined) await env.volumes.removeDisk(d.value, pool.value);
    }
    await env.seeds.remove(s.id);
    await env.sockets.remove(s.id);
    const writes: Write[] = [
      { del: kinds.vmSpec.key(s.id) },
      { del: kinds.vmOwn.key(s.id) },
      { del: unique.name('vm', spec.name) },
      ...disks.map((d) => ({ del: kinds.disk.key(d.value.id) })),
      ...spec.nics.map((n) => ({ del: unique.mac(n.mac) })),
      ...spec.nics.flatMap((n) =>
        n.address === null ? [] : [{ del: unique.address(n.network, n.address) }],
      ),
    ];
    // Its snapshots go with it; whoever has them takes them away when it can.
    for (const { value: x } of snapshots)
      writes.push({
        put: kinds.vmSnapshot.key(x.id),
        value: writeRecord(kinds.vmSnapshot, { ...x, state: 'deleting' }),
      });
    // The other node takes its copies away when it can: that may be long after.
    if (replica !== undefined) writes.push(...withoutCopy(replica.value, env.node));
    const now = env.clock.wallMs();
    for (const k of s.snapshot.ops.values()) {
      if (k.value.subject.id !== s.id || opFinished(k.value) || outlivesVm.has(k.value.kind)) continue;
      const op: Op = {
        ...k.value,
        state: k.value.kind === 'vm.delete' ? 'done' : 'cancelled',
        step: 'deleted',
        progress: 1,
        updatedMs: now,
      };
      writes.push({ put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) });
    }
    const r = await env.ledger.txn(
      [
        ...this.own.guard(s),
        { key: kinds.vmSpec.key(s.id), modRevision: s.spec.modRevision },
        ...snapshots.map((x) => ({ key: kinds.vmSnapshot.key(x.value.id), modRevision: x.modRevision })),
        ...(replica === undefined
          ? []
          : [{ key: kinds.replica.key(s.id), modRevision: replica.modRevision }]),
      ],
      writes,
    );
    if (!r.done) throw staleView(s);
    env.radio.unsay('vm', s.id);
    await this.own.forget(s);
  }

  /** @param again - it will be defined again: UEFI variables stay */
  private async undefine(id: string, again = false): Promise<void> {
    await ignoreGone(
      this.env.hypervisor.undefine(id, {
        nvram: again ? 'keep' : 'delete',
        managedSave: true,
        snapshotsMetadata: true,
        checkpointsMetadata: true,
      }),
    );
  }
}

/** What is ended by those who do it, also when its VM is no more. */
const outlivesVm: ReadonlySet<OpKind> = new Set(['vm.failover', 'vm.revert', 'vm.export', 'vm.snapshot']);

/** The disk of the VM that its machine calls so. */
const ofDevice = (s: Subject, device: string): Disk | undefined =>
  s.spec.value.disks
    .flatMap((d) => s.snapshot.disks.get(d.disk)?.value ?? [])
    .find((d) => deviceId(d) === device);

/** Libvirt's "no such domain" and "not running" where the aim was just that. */
async function ignoreGone(done: Promise<void>): Promise<void> {
  try {
    await done;
  } catch (e) {
    if (e instanceof LibvirtError && (e.code === 'no-such-domain' || e.code === 'invalid-state')) return;
    throw e;
  }
}

function freeTarget(prefix: string, used: ReadonlySet<string>): string {
  const letters = 'abcdefghijklmnopqrstuvwxyz';
  for (const first of ['', ...letters]) {
    for (const last of letters) {
      const name = prefix + first + last;
      if (!used.has(name)) return name;
    }
  }
  throw new FlotillaError('unsupported', 'No device name is left in this VM', {
    hint: 'Remove a disk first.',
  });
}

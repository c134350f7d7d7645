import { liesApart } from '../../core/domain/disk.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import type { LockstepAnswers, LockstepAsk } from '../../core/wire/lockstep.js';
import type { AgentEnv, Lockstep } from '../env.js';
import { Snapshots, type Snapshot } from '../snapshot.js';
import { parseDomain } from '../vm/domain-xml.js';
import { pathOf } from '../vm/want.js';
import { seedSpec } from '../vapp/seed-spec.js';

type Ask<K extends LockstepAsk['do']> = Extract<LockstepAsk, { do: K }>;

/** The node that is to have a VM's twin: makes it, and wipes what an earlier one left. */
export class Cradle {
  private readonly env: AgentEnv;
  private readonly lockstep: Lockstep;
  private readonly busy = new Set<string>();

  constructor(env: AgentEnv, lockstep: Lockstep) {
    this.env = env;
    this.lockstep = lockstep;
  }

  /**
   * Makes the twin that the ledger wants here, as its owner's node asks for. What was there of an earlier one goes.
   *
   * @param from - who asks, by its certificate
   * @throws FlotillaError `wrong-state`: the ledger does not want it; `bad-input`: a machine that is not that VM's
   */
  async bear(from: string, ask: Ask<'bear'>): Promise<LockstepAnswers['bear']> {
    return this.alone(ask.vm, async () => {
      const { env, lockstep } = this;
      const { s, spec, own } = await this.wanted(from, ask.vm);
      const pair = own.lockstep ?? null;
      if (pair?.twin !== env.node || pair.state !== 'preparing' || pair.pair !== ask.pair)
        throw refused(spec, `the ledger does not want its twin on ${env.node}`);
      if (env.live.compare() === null) throw refused(spec, `${env.node} has no live lease`);
      const why = await lockstep.usable();
      if (why !== null) throw refused(spec, why);
      await this.noneOfBefore(spec);
      await lockstep.end(ask.vm);
      await this.makeReady(spec, s, ask.xml);
      // Nothing that comes to life here may be taken for one of before.
      await env.journal.record({
        vm: ask.vm,
        gen: own.gen,
        role: 'none',
        owner: own.owner,
        epoch: s.meta?.value.epoch ?? 1,
      });
      const address = s.nodes.get(env.node)?.value.addresses[0] ?? '';
      return lockstep.bear({ vm: ask.vm, xml: ask.xml, gen: ask.pair, address });
    });
  }

  /** Takes away the files of disks that are not the VM's data. @throws FlotillaError `wrong-state`: they are */
  async wipe(from: string, ask: Ask<'wipe'>): Promise<LockstepAnswers['wipe']> {
    return this.alone(ask.vm, async () => {
      const { env, lockstep } = this;
      const { s, spec, own } = await this.wanted(from, ask.vm);
      if (own.lockstep?.twin === env.node) throw refused(spec, `its twin is on ${env.node}`);
      await this.noneOfBefore(spec);
      await lockstep.end(ask.vm);
      for (const { value: disk } of s.disks.values()) {
        const pool = s.pools.get(disk.pool)?.value;
        if (disk.vm !== ask.vm || pool === undefined) continue;
        if (liesApart(disk, pool) && disk.node !== null && disk.node !== env.node)
          await env.volumes.removeDisk(disk, pool);
      }
      return {};
    });
  }

  /** Waits until the machine that ran here while this node was the owner has ended: that is seen to elsewhere. */
  private async noneOfBefore(spec: VmSpec): Promise<void> {
    const { clock, hypervisor, node } = this.env;
    const untilMs = clock.nowMs() + goneMs;
    while ((await hypervisor.list()).some((d) => d.uuid === spec.id && d.active)) {
      if (clock.nowMs() >= untilMs) throw refused(spec, `a machine of it is on ${node} still`);
      await clock.sleep(goneLookMs);
    }
  }

  /** One at a time: two that make the same files would undo each other. */
  private async alone<T>(vm: string, act: () => Promise<T>): Promise<T> {
    if (this.busy.has(vm))
      throw new FlotillaError('wrong-state', `${this.env.node} is at work on it already`, {
        hint: 'It is asked again by itself.',
      });
    this.busy.add(vm);
    try {
      return await act();
    } finally {
      this.busy.delete(vm);
    }
  }

  /** Read afresh: what the asking node knows may be newer than what was read here last. */
  private async wanted(
    from: string,
    vm: string,
  ): Promise<{ readonly s: Snapshot; readonly spec: VmSpec; readonly own: VmOwn }> {
    const s = await new Snapshots(this.env.ledger).read();
    const spec = s.specs.get(vm)?.value;
    const own = s.owns.get(vm)?.value;
    if (spec === undefined || own === undefined)
      throw new FlotillaError('not-found', 'There is no such VM in the ledger', { hint: '' });
    if (own.owner !== from) throw refused(spec, `${own.owner} owns it, not ${from}`);
    if (own.owner === this.env.node) throw refused(spec, `${this.env.node} owns it itself`);
    return { s, spec, own };
  }

  /** All that its machine uses on this node. The XML comes from outside: it may name nothing else. */
  private async makeReady(spec: VmSpec, s: Snapshot, xml: string): Promise<void> {
    const { env } = this;
    const { hardware } = parseDomain(xml);
    const seed =
      hardware.seed === null
        ? null
        : await env.seeds.make(
            await seedSpec(env.ledger, s, spec),
            new Map([...s.networks].map(([id, k]) => [id, k.value])),
          );
    const own = [...s.disks.values()].map((k) => k.value).filter((d) => d.vm === spec.id);
    for (const d of hardware.disks) {
      const disk = own.find((x) => pathOf(x, s, env.volumes) === d.path);
      const pool = disk && s.pools.get(disk.pool)?.value;
      if (disk === undefined || pool === undefined || !liesApart(disk, pool) || disk.node === env.node)
        throw stranger(spec, `the disk ${d.path}`);
      // What an earlier one left may have another size.
      await env.volumes.removeDisk(disk, pool);
      const blank = {
        ...disk,
        node: env.node,
        sizeBytes: disk.madeBytes,
        source: { kind: 'blank' },
      } as const;
      await env.volumes.makeDisk(blank, pool, null, {
        signal: AbortSignal.timeout(makeMs),
        progress: () => undefined,
      });
    }
    if (hardware.seed !== seed) throw stranger(spec, `the seed ${hardware.seed ?? ''}`);
    if (hardware.cdroms.some((c) => c !== null)) throw stranger(spec, 'an image in a CD drive');
    for (const nic of hardware.nics) {
      const network = [...s.networks.values()].find((k) => k.value.bridge === nic.bridge)?.value;
      if (network === undefined) throw stranger(spec, `the bridge ${nic.bridge}`);
      await env.bridges.ensure(network);
    }
    await env.sockets.prepare(spec.id);
  }
}

/** A machine of before ends within this, ms, and it is looked so often. */
const goneMs = 10_000;
const goneLookMs = 200;
/** An empty file or volume is made within this, ms. */
const makeMs = 60_000;

const refused = (spec: VmSpec, why: string): FlotillaError =>
  new FlotillaError('wrong-state', `VM "${spec.name}": ${why}`, { hint: 'Its owner looks again by itself.' });

const stranger = (spec: VmSpec, what: string): FlotillaError =>
  new FlotillaError(
    'bad-input',
    `VM "${spec.name}": its machine uses ${what}, which is not of this VM here`,
    {
      hint: 'Only disks that lie on one node, and networks of the cluster, can be in lockstep.',
    },
  );

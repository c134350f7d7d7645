import { errorRecord } from '../core/domain/error.js';
import type { Health, NodeDrive, PoolUse } from '../core/domain/node.js';
import type { AgentEnv } from './env.js';
import { keeperLine } from './ha/keeper-line.js';

/** What this node says of itself on the radio. */
export class NodeLine {
  private readonly env: AgentEnv;
  private versions: { readonly qemuVersion: string; readonly libvirtVersion: string } | null = null;
  private memory = 0;

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** Memory of this node as last seen; 0: not yet. */
  get memoryBytes(): number {
    return this.memory;
  }

  async say(
    seq: number,
    pools: readonly PoolUse[],
    health: () => Health[],
    epoch: number | null,
    drives: readonly NodeDrive[] | null = null,
    replication: string | null = null,
  ): Promise<void> {
    const { env } = this;
    const wall = env.clock.wallMs();
    const use = await env.machine.use().catch(() => null);
    this.memory = use?.memoryBytes ?? this.memory;
    if (env.hypervisor.connected) this.versions ??= await env.hypervisor.facts().catch(() => null);
    const versions = env.hypervisor.connected ? this.versions : null;
    const accel = await env.machine.accel().catch(() => null);
    const lockstep = await env.lockstep?.usable().catch((e: unknown) => errorRecord(e).message);
    env.radio.say('state', {
      node: env.node,
      boot: env.boot,
      seq,
      version: env.version,
      ...(epoch === null ? {} : { epoch }),
      atMs: wall,
      upSinceMs: use?.upSinceMs ?? wall,
      accel,
      qemu: versions?.qemuVersion ?? null,
      libvirt: versions?.libvirtVersion ?? null,
      cpus: use?.cpus ?? 0,
      cpuUsedPct: use?.cpuUsedPct ?? 0,
      memoryBytes: use?.memoryBytes ?? 0,
      memoryUsedBytes: use?.memoryUsedBytes ?? 0,
      loadAvg1: use?.loadAvg1 ?? 0,
      ...(use?.pressure === undefined ? {} : { pressure: use.pressure }),
      pools: pools.slice(0, 32),
      health: health(),
      ...(drives === null ? {} : { drives: [...drives] }),
      ...(replication === null ? {} : { replication }),
      ...(lockstep === undefined ? {} : { lockstep: (lockstep ?? '').slice(0, 300) }),
      hears: Object.fromEntries(
        env.radio.heard().flatMap((h) => (h.beatAgeMs === null ? [] : [[h.node, Math.round(h.beatAgeMs)]])),
      ),
      refused: { ...env.radio.refused() },
      facts: env.machine.facts(),
      keeper: keeperLine(env.keeper.state()),
    });
  }
}

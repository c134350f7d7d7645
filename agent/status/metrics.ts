import type { VmPhase } from '../../core/domain/vm.js';
import { renewalAgeMs } from './ha-section.js';
import { ownLines, type StatusView } from './view.js';

type Labels = Readonly<Record<string, string>>;

/** One family of Prometheus' text format. */
class Family {
  readonly #head: string;
  readonly #name: string;
  readonly #lines: string[] = [];

  constructor(name: string, type: 'gauge' | 'counter', help: string) {
    this.#name = name;
    this.#head = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  }

  add(value: number, labels: Labels = {}): this {
    if (!Number.isFinite(value)) return this;
    const text = Object.entries(labels).map(([k, v]) => `${k}="${escape(v)}"`);
    this.#lines.push(`${this.#name}${text.length === 0 ? '' : `{${text.join(',')}}`} ${value}\n`);
    return this;
  }

  toString(): string {
    return this.#lines.length === 0 ? '' : this.#head + this.#lines.join('');
  }
}

const escape = (v: string): string =>
  v.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
const gauge = (name: string, help: string): Family => new Family(`flotilla_${name}`, 'gauge', help);
const counter = (name: string, help: string): Family => new Family(`flotilla_${name}_total`, 'counter', help);
const bit = (b: boolean): number => (b ? 1 : 0);

/**
 * The node's metrics in Prometheus' text format. Written by hand: a dozen lines do it, and series of deleted VMs
 * vanish by themselves, which a registry has to be told.
 *
 * @see prometheus.io, "Exposition formats", text-based 0.0.4; checked by `promtool check metrics`
 */
export function metricsText(v: StatusView): string {
  return [
    ...nodeFamilies(v),
    ...vmFamilies(v),
    ...haFamilies(v),
    ...lockstepFamilies(v),
    ...radioFamilies(v),
    ...agentFamilies(v),
  ]
    .map(String)
    .join('');
}

function nodeFamilies(v: StatusView): Family[] {
  const s = ownLines(v)?.state;
  const size = gauge('pool_size_bytes', 'Size of a pool on this node.');
  const free = gauge('pool_free_bytes', 'Free space of a pool on this node.');
  const well = gauge('pool_ok', 'Whether a pool on this node is usable.');
  for (const p of s?.pools ?? []) {
    size.add(p.totalBytes, { pool: p.pool });
    free.add(p.freeBytes, { pool: p.pool });
    well.add(bit(p.ok), { pool: p.pool });
  }
  const health = gauge('health_ok', 'Whether a part of this node is well.');
  for (const h of v.health) health.add(bit(h.ok), { part: h.part });
  const out = [size, free, well, health];
  if (v.ledger.reachable !== null)
    out.push(gauge('ledger_reachable', 'Whether the ledger answers this node.').add(bit(v.ledger.reachable)));
  if (v.certificate !== null)
    out.push(
      gauge('certificate_expiry_timestamp_seconds', "End of this node's certificate.").add(
        v.certificate.expiresMs / 1000,
      ),
    );
  const celsius = v.facts?.temperatureC ?? null;
  if (celsius !== null)
    out.push(gauge('node_temperature_celsius', 'Hottest sensor of this node.').add(celsius));
  if (s === undefined || s === null) return out;
  return [
    gauge('node_cpus', 'Logical CPUs of this node.').add(s.cpus),
    gauge('node_cpu_used_ratio', 'Share of the CPUs in use, 0 to 1.').add(s.cpuUsedPct / 100),
    gauge('node_memory_bytes', 'Memory of this node.').add(s.memoryBytes),
    gauge('node_memory_used_bytes', 'Memory of this node that is not available.').add(s.memoryUsedBytes),
    gauge('node_load1', 'Load average over one minute.').add(s.loadAvg1),
    ...out,
  ];
}

function vmFamilies(v: StatusView): Family[] {
  const phases = new Map<VmPhase, number>();
  const up = gauge('vm_up', 'Whether a VM on this node runs.');
  const start = gauge('vm_start_timestamp_seconds', 'When a VM on this node started.');
  const cpu = gauge('vm_cpu_used_ratio', "Share of a VM's own virtual CPUs in use, 0 to 1.");
  const used = gauge('vm_memory_used_bytes', 'Memory a VM uses.');
  const memory = gauge('vm_memory_bytes', 'Memory a VM has.');
  const disk = gauge('vm_disk_bytes_per_second', 'Disk traffic of a VM over the last interval.');
  const net = gauge('vm_network_bytes_per_second', 'Network traffic of a VM over the last interval.');
  for (const { state: s } of ownLines(v)?.vms.values() ?? []) {
    const of = { vm: s.vm, name: s.name };
    phases.set(s.phase, (phases.get(s.phase) ?? 0) + 1);
    up.add(bit(s.phase === 'running'), of);
    if (s.upSinceMs !== null) start.add(s.upSinceMs / 1000, of);
    if (s.stats === null) continue;
    cpu.add(s.stats.cpuPct / 100, of);
    used.add(s.stats.memoryUsedBytes, of);
    memory.add(s.stats.memoryBytes, of);
    disk
      .add(s.stats.diskReadBps, { ...of, direction: 'read' })
      .add(s.stats.diskWriteBps, { ...of, direction: 'write' });
    net
      .add(s.stats.netRxBps, { ...of, direction: 'receive' })
      .add(s.stats.netTxBps, { ...of, direction: 'transmit' });
  }
  const vms = gauge('vms', 'VMs on this node by phase.');
  for (const [phase, n] of phases) vms.add(n, { phase });
  return [vms, up, start, cpu, used, memory, disk, net];
}

function haFamilies(v: StatusView): Family[] {
  const k = v.keeper;
  const failovers = counter('failovers', 'Failovers of VMs to this node since the agent started.').add(
    v.failovers,
  );
  const up = gauge('keeper_up', 'Whether the keeper answers the agent.').add(bit(k !== null));
  const policy = gauge('ha_policy', 'Switches of the whole cluster, as last read from the ledger.');
  for (const [name, on] of Object.entries(v.policy?.ha ?? {})) policy.add(bit(on), { switch: name });
  const asleep = gauge('nodes_asleep', 'Nodes that were powered off on purpose.').add(v.asleep.length);
  if (k === null) return [up, policy, failovers, asleep];
  const mode = gauge('keeper_mode', 'Mode of the keeper: 1 for the one it is in.');
  for (const m of ['run', 'ice', 'thaw'] as const) mode.add(bit(k.mode === m), { mode: m });
  const age = gauge('keeper_renewal_age_seconds', 'Time since the last good renewal of the lease was sent.');
  const ageMs = renewalAgeMs(v);
  if (ageMs !== null) age.add(ageMs / 1000);
  return [
    up,
    mode,
    age,
    gauge('keeper_armed_vms', 'VMs that freeze with this node.').add(k.armed.length),
    gauge('keeper_held_vms', 'VMs that the keeper keeps frozen or has killed.').add(k.held.length),
    gauge('keeper_armable', 'Whether the keeper would arm a VM now.').add(bit(k.armable.ok)),
    policy,
    failovers,
    asleep,
  ];
}

function radioFamilies(v: StatusView): Family[] {
  const connected = gauge('radio_peer_connected', "Whether this agent is connected to a node's broker.");
  const age = gauge('radio_peer_beat_age_seconds', 'Age of the last beat heard of a node.');
  const gone = gauge('radio_peer_agent_gone', "Whether a node's agent ended without goodbye.");
  for (const h of v.heard) {
    connected.add(bit(h.connected), { peer: h.node });
    if (h.beatAgeMs !== null && h.node !== v.node) age.add(h.beatAgeMs / 1000, { peer: h.node });
    gone.add(bit(h.agentGone), { peer: h.node });
  }
  const refused = counter(
    'refused',
    'Refused since the agent started: certificates, tokens, topics, payloads.',
  );
  for (const kind of countedAlways) refused.add(v.refused[kind] ?? 0, { kind });
  for (const [kind, n] of Object.entries(v.refused).filter(([k]) => !countedAlways.has(k)))
    refused.add(n, { kind });
  return [connected, age, gone, refused];
}

/** Shown from zero on, so that an alert on their rise works from the first. */
const countedAlways: ReadonlySet<string> = new Set([
  'certificate',
  'forged-topic',
  'unreadable',
  'oversized',
  'token',
]);

function lockstepFamilies(v: StatusView): Family[] {
  const all = gauge(
    'lockstep_checkpoints',
    'Times that a VM in lockstep and its twin were made the same, of this pair.',
  );
  for (const m of v.lockstep) if (m.role !== 'alone') all.add(m.checkpoints, { vm: m.vm, role: m.role });
  return [all];
}

function agentFamilies(v: StatusView): Family[] {
  const { agent } = v;
  return [
    gauge('build_info', 'Version of the agent; always 1.').add(1, { version: v.version, node: v.node }),
    gauge('agent_event_loop_lag_seconds', "Lateness of the agent's event loop, 99th percentile.").add(
      agent.lagSeconds,
    ),
    new Family('process_resident_memory_bytes', 'gauge', 'Resident memory of the agent.').add(agent.rssBytes),
    new Family('process_cpu_seconds_total', 'counter', 'CPU time of the agent.').add(agent.cpuSeconds),
    new Family('process_start_time_seconds', 'gauge', 'When the agent started.').add(agent.startedMs / 1000),
  ];
}

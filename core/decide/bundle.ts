import { cpuSharesMax } from '../domain/service-class.js';
import type { Vapp } from '../domain/vapp.js';
import type { VmSpec } from '../domain/vm.js';
import { cpuSharesOf } from './service-class.js';

/** VMs by id, as far as they are made. */
export interface Made {
  get(id: string): { readonly value: VmSpec } | undefined;
}
type Bundle = Pick<Vapp, 'members' | 'cpuAllocation' | 'memoryAllocation'>;

/** Length of the time in which a machine may use its share of CPU, µs. */
export const cpuPeriodUs = 100_000;

/** What members take or will take; of those not made yet, what they are asked for as. */
function membersOf(v: Bundle, made: Made): { id: string; cpus: number; memoryMiB: number; shares: number }[] {
  const number = (x: unknown, usual: number): number => (typeof x === 'number' ? x : usual);
  return v.members
    .filter((m) => !m.leaving)
    .map((m) => {
      const spec = made.get(m.vm)?.value;
      return {
        id: m.vm,
        cpus: spec?.cpus ?? number(m.make?.['cpus'], 1),
        memoryMiB: spec?.memoryMiB ?? number(m.make?.['memoryMiB'], 0),
        shares: spec === undefined ? 100 : cpuSharesOf(spec),
      };
    });
}

export const bundleMemoryMiB = (v: Bundle, made: Made): number =>
  membersOf(v, made).reduce((n, m) => n + m.memoryMiB, 0);

/**
 * Memory kept for a VM, MiB: its own and, where its vApp has more reserved than its members take, its part of the rest.
 * So a member can grow, or another be made, without anybody having taken the room.
 */
export function reservedMiB(spec: VmSpec, v: Bundle | undefined, made: Made): number {
  const reserved = v?.memoryAllocation?.reservation ?? null;
  if (v === undefined || reserved === null) return spec.memoryMiB;
  const others = bundleMemoryMiB(v, made) - (made.get(spec.id)?.value.memoryMiB ?? 0);
  const known = made.get(spec.id) !== undefined;
  const sum = known ? others + spec.memoryMiB : bundleMemoryMiB(v, made);
  return sum === 0 || sum >= reserved ? spec.memoryMiB : Math.ceil((spec.memoryMiB * reserved) / sum);
}

/** A VM as placement and admission count it. */
export function reservedSpec(spec: VmSpec, v: Bundle | undefined, made: Made): VmSpec {
  const memoryMiB = reservedMiB(spec, v, made);
  return memoryMiB === spec.memoryMiB ? spec : { ...spec, memoryMiB };
}

/** What a node's scheduler is to give a VM. */
export interface CpuTune {
  readonly shares: number;
  /** µs of all its CPUs together in {@link cpuPeriodUs}; null: no limit. */
  readonly quotaUs: number | null;
}

/**
 * A vApp's weight and limit divided among its members, by their own shares and CPUs.
 *
 * @param cpuMHz - speed of one CPU of the node; 0: not known, and no limit is set
 */
export function cpuTuneOf(spec: VmSpec, v: Bundle | undefined, made: Made, cpuMHz: number): CpuTune {
  const own = { shares: cpuSharesOf(spec), quotaUs: null };
  const a = v?.cpuAllocation ?? null;
  if (v === undefined || a === null) return own;
  const members = membersOf(v, made);
  const weights = members.reduce((n, m) => n + m.shares * m.cpus, 0);
  const cpus = members.reduce((n, m) => n + m.cpus, 0);
  if (weights === 0 || cpus === 0) return own;
  const shares = a.weight === null ? own.shares : Math.round((a.weight * own.shares * spec.cpus) / weights);
  const quotaUs =
    a.limit === null || cpuMHz <= 0
      ? null
      : Math.max(cpuQuotaUsMin, Math.round(((a.limit * spec.cpus) / cpus / cpuMHz) * cpuPeriodUs));
  return { shares: Math.min(cpuSharesMax, Math.max(1, shares)), quotaUs };
}

/** The least that libvirt takes, µs. */
const cpuQuotaUsMin = 1_000;

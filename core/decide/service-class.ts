import { isReplicated, type Disk } from '../domain/disk.js';
import {
  classSettingSchema,
  cpuSharesDefault,
  type ClassSetting,
  type ClassSettings,
  type ServiceClass,
} from '../domain/service-class.js';
import { noSchedule, scheduled, scheduleWords, type SnapshotSchedule } from '../domain/snapshot-schedule.js';
import type { VmSpec } from '../domain/vm.js';
import type { VmCreate, VmHaInput, VmPatch } from '../wire/rest.js';

/** Settings in the words of people. */
export const settingWords: Readonly<Record<ClassSetting, string>> = {
  replicas: 'copies of its disks on thin pools',
  ha: 'HA',
  haPriority: 'HA priority',
  onHang: 'when the guest hangs',
  restartsPerHourMax: 'restarts an hour at most',
  autoMove: 'moved by balancing',
  cpuShares: 'CPU shares',
  snapshots: 'snapshots taken by themselves',
};

/** A setting's value in words. */
export function settingText(value: ClassSettings[ClassSetting]): string {
  if (typeof value === 'object') return scheduleWords(value);
  return typeof value === 'boolean' ? (value ? 'yes' : 'no') : String(value ?? 'not said');
}

type Asked = Pick<VmPatch, 'ha' | 'autoMove' | 'cpuShares' | 'snapshots'> & {
  readonly disks?: readonly { readonly replicas?: 1 | 2 | undefined }[];
};

/** What a request says itself of what a class could say. */
export function settingsAsked(o: Asked): ClassSetting[] {
  const said: Record<ClassSetting, boolean> = {
    replicas: o.disks?.some((d) => d.replicas !== undefined) === true,
    ha: o.ha?.enabled !== undefined,
    haPriority: o.ha?.priority !== undefined,
    onHang: o.ha?.onHang !== undefined,
    restartsPerHourMax: o.ha?.restartsPerHourMax !== undefined,
    autoMove: o.autoMove !== undefined,
    cpuShares: o.cpuShares !== undefined,
    snapshots: o.snapshots !== undefined,
  };
  return classSettingSchema.options.filter((s) => said[s]);
}

/** What a class says to a VM that has these settings of its own. */
function saidTo(settings: ClassSettings, own: readonly ClassSetting[]): ClassSettings {
  return Object.fromEntries(Object.entries(settings).filter(([k]) => !own.includes(k as ClassSetting)));
}

const haOf = (s: ClassSettings): VmHaInput => ({
  ...(s.ha === undefined ? {} : { enabled: s.ha }),
  ...(s.haPriority === undefined ? {} : { priority: s.haPriority }),
  ...(s.onHang === undefined ? {} : { onHang: s.onHang }),
  ...(s.restartsPerHourMax === undefined ? {} : { restartsPerHourMax: s.restartsPerHourMax }),
});

/**
 * A new VM as it is asked for, filled in by its class.
 *
 * @param thin - whether disks of that pool, null: the usual one, can have two copies
 */
export function createByClass(
  input: VmCreate,
  cls: ServiceClass,
  thin: (pool: string | undefined) => boolean,
): { readonly input: VmCreate; readonly own: readonly ClassSetting[] } {
  const own = settingsAsked(input);
  const s = saidTo(cls.settings, own);
  const { replicas } = s;
  return {
    own,
    input: {
      ...input,
      ha: { ...haOf(s), ...input.ha },
      autoMove: input.autoMove ?? s.autoMove,
      cpuShares: input.cpuShares ?? s.cpuShares,
      snapshots: input.snapshots ?? s.snapshots,
      disks:
        replicas === undefined
          ? input.disks
          : input.disks.map((d) => (thin(d.pool) ? { ...d, replicas } : d)),
    },
  };
}

/**
 * An edit as it is asked for, with what the VM's class says to what the edit gives back to it.
 *
 * @param cls - the class that it is to have; null: none. What it had stays as it is then.
 */
export function editByClass(
  before: VmSpec,
  patch: VmPatch,
  cls: ServiceClass | null,
): { readonly patch: VmPatch; readonly class: VmSpec['class'] } {
  if (cls === null) return { patch, class: undefined };
  const asked = settingsAsked(patch);
  const own = classSettingSchema.options.filter(
    (s) =>
      asked.includes(s) || (before.class?.own.includes(s) === true && !(patch.asClass ?? []).includes(s)),
  );
  const s = saidTo(cls.settings, own);
  return {
    class: { id: cls.id, own },
    patch: {
      ...patch,
      ha: { ...haOf(s), ...patch.ha },
      ...(patch.autoMove === undefined && s.autoMove !== undefined ? { autoMove: s.autoMove } : {}),
      ...(patch.cpuShares === undefined && s.cpuShares !== undefined ? { cpuShares: s.cpuShares } : {}),
      ...(patch.snapshots === undefined && s.snapshots !== undefined ? { snapshots: s.snapshots } : {}),
    },
  };
}

/** A member's record as its class says; the same object where it says so already. */
export function followClass(spec: VmSpec, cls: ServiceClass): VmSpec {
  if (spec.class?.id !== cls.id) return spec;
  const s = saidTo(cls.settings, spec.class.own);
  const ha = { ...spec.ha, ...haOf(s) } as VmSpec['ha'];
  const { snapshots, ...rest } = spec;
  const next: VmSpec = {
    ...rest,
    ...scheduled(s.snapshots ?? snapshots),
    ha,
    ...(s.autoMove === undefined ? {} : { autoMove: s.autoMove }),
    ...(s.cpuShares === undefined ? {} : { cpuShares: s.cpuShares }),
  };
  const same =
    JSON.stringify(ha) === JSON.stringify(spec.ha) &&
    autoMoveOf(next) === autoMoveOf(spec) &&
    cpuSharesOf(next) === cpuSharesOf(spec) &&
    settingText(scheduleOf(next)) === settingText(scheduleOf(spec));
  return same ? spec : { ...next, generation: spec.generation + 1 };
}

const scheduleOf = (s: VmSpec): SnapshotSchedule => s.snapshots ?? noSchedule;
const autoMoveOf = (s: VmSpec): boolean => s.autoMove !== false;
export const cpuSharesOf = (s: Pick<VmSpec, 'cpuShares'>): number => s.cpuShares ?? cpuSharesDefault;

/** How a VM is set now, in the words of classes. */
export function settingsOf(
  spec: VmSpec,
  disks: readonly Pick<Disk, 'replicas' | 'state'>[],
): Required<ClassSettings> {
  return {
    replicas: disks.some((d) => d.state !== 'deleting' && isReplicated(d)) ? 2 : 1,
    ha: spec.ha.enabled,
    haPriority: spec.ha.priority,
    onHang: spec.ha.onHang,
    restartsPerHourMax: spec.ha.restartsPerHourMax,
    autoMove: autoMoveOf(spec),
    cpuShares: cpuSharesOf(spec),
    snapshots: scheduleOf(spec),
  };
}

/** One thing that becomes otherwise for a VM. */
export interface ClassEffect {
  readonly setting: ClassSetting;
  readonly text: string;
  /** `new-disks`: those there are stay as they are. */
  readonly when: 'now' | 'next-start' | 'new-disks';
}

/** What a class as it will be changes for a member. @param runs - its machine is there */
export function classEffects(
  spec: VmSpec,
  disks: readonly Pick<Disk, 'replicas' | 'state'>[],
  cls: ServiceClass,
  runs: boolean,
): ClassEffect[] {
  const now = settingsOf(spec, disks);
  const s = saidTo(cls.settings, spec.class?.own ?? []);
  return classSettingSchema.options.flatMap((k): ClassEffect[] => {
    const will = s[k];
    if (will === undefined || settingText(will) === settingText(now[k])) return [];
    return [
      {
        setting: k,
        text: `${settingWords[k]}: ${settingText(now[k])} → ${settingText(will)}`,
        when: k === 'replicas' ? 'new-disks' : k === 'onHang' && runs ? 'next-start' : 'now',
      },
    ];
  });
}

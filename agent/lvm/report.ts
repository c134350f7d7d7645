import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';

/*
 * What `lvm fullreport` (`--reportformat json --units b --nosuffix`), lsblk, wipefs and smartctl say, as typed values.
 * @see test/fixtures/lvm
 */

const bytes = z.coerce.number().int().nonnegative();
/** Empty where it does not apply, or is not known because the volume is off. */
const percent = z
  .string()
  .regex(/^(\d+(\.\d+)?)?$/)
  .transform((s) => (s === '' ? null : Number(s)));
const tags = z.string().transform((s) => (s === '' ? [] : s.split(',')));

const groupRow = z.object({
  vg_name: z.string(),
  vg_size: bytes,
  vg_free: bytes,
  vg_extent_size: bytes,
  vg_tags: tags,
});
const volumeRow = z.object({
  lv_name: z.string(),
  vg_name: z.string(),
  lv_size: bytes,
  pool_lv: z.string(),
  data_percent: percent,
  metadata_percent: percent,
  lv_metadata_size: z.union([z.literal('').transform(() => null), bytes]),
  lv_tags: tags,
  lv_active: z.string(),
  lv_health_status: z.string(),
});
const driveRow = z.object({
  pv_name: z.string(),
  vg_name: z.string(),
  pv_size: bytes,
  pv_missing: z.string(),
});

export type GroupRow = z.output<typeof groupRow>;
export type VolumeRow = z.output<typeof volumeRow>;
export type DriveRow = z.output<typeof driveRow>;

/** All that lvm2 has on a node, at one moment. */
export interface Groups {
  readonly groups: readonly GroupRow[];
  readonly volumes: readonly VolumeRow[];
  readonly drives: readonly DriveRow[];
}

const names = (row: z.ZodObject): string => Object.keys(row.shape).join();
/** Columns to ask for, so that question and schema cannot differ; of segments just something. */
export const columns = {
  vg: names(groupRow),
  lv: names(volumeRow),
  pv: names(driveRow),
  pvseg: 'pv_name',
  seg: 'lv_name',
} as const;

/** One for each group, and one for the drives without a group. */
const report = z.object({
  report: z.array(
    z.object({
      vg: z.array(groupRow).default([]),
      lv: z.array(volumeRow).default([]),
      pv: z.array(driveRow).default([]),
    }),
  ),
});

/** @throws FlotillaError `tool-failed`: not what lvm2 is known to say */
export function readGroups(text: string): Groups {
  const r = report.safeParse(json(text));
  if (!r.success) throw notUnderstood('lvm', r.error);
  const parts = r.data.report;
  return {
    groups: parts.flatMap((p) => p.vg),
    volumes: parts.flatMap((p) => p.lv),
    drives: parts.flatMap((p) => p.pv),
  };
}

/** One block device and what is on it. */
export interface BlockDevice {
  readonly path: string;
  readonly type: string;
  readonly sizeBytes: number;
  readonly model: string;
  readonly serial: string;
  readonly rotates: boolean;
  readonly readOnly: boolean;
  readonly removable: boolean;
  /** File system, or `LVM2_member`, `linux_raid_member`, `drbd`, …; empty: none. */
  readonly content: string;
  /** Partition table; empty: none. */
  readonly table: string;
  readonly mounts: readonly string[];
  readonly children: readonly BlockDevice[];
}

const text = z
  .string()
  .nullish()
  .transform((s) => (s ?? '').trim().slice(0, 128));

const deviceRow: z.ZodType<BlockDevice> = z
  .object({
    name: z.string(),
    type: z.string(),
    size: bytes,
    model: text,
    serial: text,
    rota: z.boolean(),
    ro: z.boolean(),
    rm: z.boolean(),
    fstype: text,
    pttype: text,
    mountpoints: z.array(z.string().nullable()).default([]),
    children: z.lazy(() => z.array(deviceRow)).default([]),
  })
  .transform((d) => ({
    path: d.name,
    type: d.type,
    sizeBytes: d.size,
    model: d.model,
    serial: d.serial,
    rotates: d.rota,
    readOnly: d.ro,
    removable: d.rm,
    content: d.fstype,
    table: d.pttype,
    mounts: d.mountpoints.filter((m) => m !== null),
    children: d.children,
  }));

export const deviceColumns = 'NAME,TYPE,SIZE,MODEL,SERIAL,ROTA,RO,RM,FSTYPE,PTTYPE,MOUNTPOINTS';

export function readDevices(output: string): BlockDevice[] {
  const r = z.object({ blockdevices: z.array(deviceRow) }).safeParse(json(output));
  if (!r.success) throw notUnderstood('lsblk', r.error);
  return r.data.blockdevices;
}

/** Signatures on a device, by type: `gpt`, `ext4`, `LVM2_member`, … */
export function readSignatures(output: string): string[] {
  const r = z.object({ signatures: z.array(z.object({ type: z.string() })) }).safeParse(json(output));
  if (!r.success) throw notUnderstood('wipefs', r.error);
  return r.data.signatures.map((s) => s.type);
}

/** What a drive says of its own health. Null: it does not say, as emulated drives. */
export interface DriveHealth {
  readonly well: boolean;
  readonly text: string;
}

/** Hours at which nothing can be said are left out; wear is of solid-state drives. */
export function readHealth(output: string): DriveHealth | null {
  const r = z
    .object({
      smart_status: z.object({ passed: z.boolean() }).optional(),
      power_on_time: z.object({ hours: z.number() }).optional(),
      temperature: z.object({ current: z.number() }).optional(),
      nvme_smart_health_information_log: z
        .object({ percentage_used: z.number(), media_errors: z.number(), critical_warning: z.number() })
        .partial()
        .optional(),
      ata_smart_attributes: z
        .object({
          table: z.array(z.object({ id: z.number(), raw: z.object({ value: z.number() }) })),
        })
        .optional(),
    })
    .safeParse(json(output));
  if (!r.success || r.data.smart_status === undefined) return null;
  const d = r.data;
  const nvme = d.nvme_smart_health_information_log;
  // 5: sectors given up; 197: sectors that could not be read.
  const sectors = (id: number): number =>
    d.ata_smart_attributes?.table.find((a) => a.id === id)?.raw.value ?? 0;
  const faults = [
    d.smart_status?.passed === false ? 'it says of itself that it is failing' : '',
    (nvme?.media_errors ?? 0) > 0 ? `${nvme?.media_errors} errors of its medium` : '',
    sectors(197) > 0 ? `${sectors(197)} sectors cannot be read` : '',
    sectors(5) > 0 ? `${sectors(5)} sectors were replaced` : '',
    (nvme?.percentage_used ?? 0) >= 90 ? `${nvme?.percentage_used} % worn` : '',
  ].filter((f) => f !== '');
  const facts = [
    d.power_on_time === undefined ? '' : `${d.power_on_time.hours} h`,
    d.temperature === undefined ? '' : `${d.temperature.current} °C`,
  ].filter((f) => f !== '');
  return { well: faults.length === 0, text: [...faults, ...facts].join(', ') };
}

function json(output: string): unknown {
  try {
    return JSON.parse(output);
  } catch {
    return null;
  }
}

const notUnderstood = (what: string, cause: unknown): FlotillaError =>
  new FlotillaError('tool-failed', `What ${what} said is not understood`, {
    hint: 'A version of lvm2 or util-linux that Flotilla does not know: please report it. Nothing was changed.',
    cause,
  });

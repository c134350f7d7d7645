import { z } from 'zod';
import { replicasSchema } from './disk.js';
import { vmHaSchema } from './ha.js';
import { idSchema, nameSchema, noteSchema } from './schema.js';
import { snapshotScheduleSchema } from './snapshot-schedule.js';

/** Classes of a cluster, at most. */
export const classesMax = 64;

export const cpuSharesMax = 10_000;
/** A VM's weight where CPUs are short, as of cgroups: one of 200 gets twice as much as one of 100. */
export const cpuSharesSchema = z.number().int().min(1).max(cpuSharesMax);
/** That of a VM of which nobody said anything. */
export const cpuSharesDefault = 100;

/** What a class can say of its VMs. What it does not say is up to each of them. */
export const classSettingsSchema = z
  .strictObject({
    /** Copies of their disks on thin pools, of those made with the VM. */
    replicas: replicasSchema,
    ha: vmHaSchema.shape.enabled,
    haPriority: vmHaSchema.shape.priority,
    onHang: vmHaSchema.shape.onHang,
    restartsPerHourMax: vmHaSchema.shape.restartsPerHourMax,
    /** False: balancing never moves them. */
    autoMove: z.boolean(),
    cpuShares: cpuSharesSchema,
    /** How many snapshots are kept that are taken by themselves; all 0: none. */
    snapshots: snapshotScheduleSchema,
  })
  .partial();
export type ClassSettings = z.output<typeof classSettingsSchema>;

export const classSettingSchema = classSettingsSchema.keyof();
export type ClassSetting = z.output<typeof classSettingSchema>;

/** `/flotilla/class/<id>`: a level of service that VMs and vApps ask for by its name. */
export const serviceClassSchema = z.object({
  id: idSchema,
  name: nameSchema,
  /** Rises by one with each edit. */
  generation: z.number().int().positive(),
  note: noteSchema,
  settings: classSettingsSchema,
});
export type ServiceClass = z.output<typeof serviceClassSchema>;

/** What a VM's record says of its class; the settings themselves stand in the record as of any VM. */
export const vmClassSchema = z.object({
  id: idSchema,
  /** Settings that the VM has of its own: those of its class do not reach them. */
  own: z.array(classSettingSchema).max(16),
});
export type VmClass = z.output<typeof vmClassSchema>;

/** What the REST API takes and answers about service classes, and its routes. */
import { z } from 'zod';
import { idSchema, nameSchema, noteSchema } from '../domain/schema.js';
import { classSettingSchema, classSettingsSchema, serviceClassSchema } from '../domain/service-class.js';
import { opViewSchema } from './rest-objects.js';
import { at, nothingSchema, type RestRoute } from './rest-route.js';

export const classViewSchema = z
  .object({
    ...serviceClassSchema.shape,
    vms: z.array(
      z.object({
        vm: idSchema,
        name: z.string(),
        /** Settings it has of its own. */
        own: z.array(classSettingSchema),
        /** Its record says already what the class says. */
        follows: z.boolean(),
      }),
    ),
    /** vApps whose VMs are of this class where they say nothing else. */
    vapps: z.array(z.object({ vapp: idSchema, name: z.string() })),
  })
  .meta({ id: 'Class' });
export type ClassView = z.output<typeof classViewSchema>;

export const classListSchema = z.object({ items: z.array(classViewSchema) }).meta({ id: 'ClassList' });

export const classCreateSchema = z
  .strictObject({
    name: nameSchema,
    note: noteSchema.default(''),
    settings: classSettingsSchema,
  })
  .meta({ id: 'ClassCreate' });

export const classPatchSchema = z
  .strictObject({
    name: nameSchema.optional(),
    note: noteSchema.optional(),
    /** What is named is changed; null: the class says nothing of it any more, and its VMs keep what they have. */
    settings: z
      .strictObject(
        Object.fromEntries(
          Object.entries(classSettingsSchema.shape).map(([k, s]) => [k, s.unwrap().nullable().optional()]),
        ) as {
          [K in keyof typeof classSettingsSchema.shape]: z.ZodOptional<
            z.ZodNullable<ReturnType<(typeof classSettingsSchema.shape)[K]['unwrap']>>
          >;
        },
      )
      .optional(),
    /** Says what would change for which VM; changes nothing. */
    dryRun: z.boolean().default(false),
  })
  .meta({ id: 'ClassPatch' });

export const classChangedSchema = z
  .object({
    class: classViewSchema,
    /** Its VMs for which something becomes otherwise. */
    changes: z.array(
      z.object({
        vm: idSchema,
        name: z.string(),
        effects: z.array(
          z.object({
            setting: classSettingSchema,
            text: z.string(),
            /** `next-start`: its machine takes it up when it is started anew. `new-disks`: those there are stay. */
            when: z.enum(['now', 'next-start', 'new-disks']),
          }),
        ),
      }),
    ),
    /** VMs that cannot follow, with why: the change is refused until they have a setting of their own, or can. */
    cannot: z.array(z.object({ vm: idSchema, name: z.string(), text: z.string(), hint: z.string() })),
    /** By which the VMs follow; null: none has to, or it was only asked what would be. */
    op: opViewSchema.nullable(),
  })
  .meta({ id: 'ClassChanged' });
export type ClassChanged = z.output<typeof classChangedSchema>;

export const classRoutes = {
  classList: {
    method: 'get',
    path: '/classes',
    tag: 'cluster',
    summary: 'Service classes, each with its settings and who is of it',
    status: 200,
    response: classListSchema,
  },
  classGet: {
    method: 'get',
    path: '/classes/{class}',
    tag: 'cluster',
    summary: 'One service class',
    params: at('class'),
    status: 200,
    response: classViewSchema,
    etag: true,
  },
  classCreate: {
    method: 'post',
    path: '/classes',
    tag: 'cluster',
    summary: 'Make a service class: settings that VMs and vApps ask for by its name',
    body: classCreateSchema,
    status: 201,
    response: classViewSchema,
    etag: true,
    idempotent: true,
  },
  classPatch: {
    method: 'patch',
    path: '/classes/{class}',
    tag: 'cluster',
    summary: 'Change a class, and with it the VMs that are of it; `dryRun` says only what would change',
    params: at('class'),
    body: classPatchSchema,
    status: 202,
    response: classChangedSchema,
    etag: true,
  },
  classDelete: {
    method: 'delete',
    path: '/classes/{class}',
    tag: 'cluster',
    summary: 'Remove a class that no VM and no vApp is of',
    params: at('class'),
    status: 204,
    response: nothingSchema,
    etag: true,
  },
} as const satisfies Record<string, RestRoute>;

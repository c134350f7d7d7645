/** What the REST API takes and answers about templates, and its routes. */
import { z } from 'zod';
import { nameSchema, noteSchema, tagsSchema } from '../domain/schema.js';
import { templateSchema } from '../domain/template.js';
import { vappPropertySchema } from '../domain/vapp.js';
import { opViewSchema, refSchema } from './rest-objects.js';
import { at, nothingSchema, type RestRoute } from './rest-route.js';
import { vappAppliedSchema, vappCloneSchema, vappDocSchema } from './rest-vapp.js';

export const templateViewSchema = z
  .object({
    ...templateSchema.omit({ document: true, begins: true }).shape,
    members: z.array(
      z.object({
        name: z.string(),
        cpus: z.number().int().nullable(),
        memoryMiB: z.number().int().nullable(),
        disks: z.array(
          z.object({
            name: z.string(),
            pool: z.string(),
            sizeBytes: z.number(),
            /** What is held of it; null: not taken yet. */
            usedBytes: z.number().nullable(),
          }),
        ),
        /** Where its data lie, and what is made of it is made; null: in shared pools. */
        node: z.string().nullable(),
      }),
    ),
    /** Names of the cluster's networks that it needs, and of isolated ones that are made with it. */
    networks: z.array(z.object({ name: z.string(), isolated: z.boolean() })),
    /** What whoever deploys it may or must set. */
    properties: z.array(vappPropertySchema),
    /** Licences that whoever deploys it accepts. */
    eulas: z.array(z.string()),
    /** Why nothing can be made of it now, in words; empty: it can. */
    unusable: z.string(),
    /** The operation that makes it; null: it is made. */
    op: opViewSchema.nullable(),
  })
  .meta({ id: 'Template' });
export type TemplateView = z.output<typeof templateViewSchema>;

export const templateListSchema = z
  .object({ items: z.array(templateViewSchema) })
  .meta({ id: 'TemplateList' });

export const templateCreateSchema = z
  .strictObject({
    name: nameSchema,
    note: noteSchema.default(''),
    tags: tagsSchema.default([]),
    /** What it is made of, as that is now: one of both. */
    vapp: refSchema.optional(),
    vm: refSchema.optional(),
    /** Deploy parameters beside those that a vApp has; of equal name in place of those. */
    properties: vappDocSchema.shape.properties,
  })
  .refine((t) => (t.vapp === undefined) !== (t.vm === undefined), 'is made of either a vApp or a VM')
  .meta({ id: 'TemplateCreate' });

export const templateDeploySchema = z
  .strictObject({
    ...vappCloneSchema.shape,
    /** Licences are accepted; needed where there are any. */
    acceptEulas: z.boolean().default(false),
  })
  .meta({ id: 'TemplateDeploy' });

export const templateRoutes = {
  templateList: {
    method: 'get',
    path: '/templates',
    tag: 'vapps',
    summary: 'The catalogue: templates that vApps are made of, with their properties',
    status: 200,
    response: templateListSchema,
  },
  templateGet: {
    method: 'get',
    path: '/templates/{template}',
    tag: 'vapps',
    summary: 'One template',
    params: at('template'),
    status: 200,
    response: templateViewSchema,
  },
  templateCreate: {
    method: 'post',
    path: '/templates',
    tag: 'vapps',
    summary: 'Keep a vApp or a VM as it is now, running or off, as a template with deploy parameters',
    body: templateCreateSchema,
    status: 202,
    response: templateViewSchema,
    idempotent: true,
  },
  templateDeploy: {
    method: 'post',
    path: '/templates/{template}/vapps',
    tag: 'vapps',
    summary: 'Make a vApp of a template: all of it, or nothing; `dryRun` says only what would be made',
    params: at('template'),
    body: templateDeploySchema,
    status: 202,
    response: vappAppliedSchema,
    idempotent: true,
  },
  templateDelete: {
    method: 'delete',
    path: '/templates/{template}',
    tag: 'vapps',
    summary: 'Delete a template; what was made of it stays, and what linked disks need goes with those',
    params: at('template'),
    status: 204,
    response: nothingSchema,
  },
} as const satisfies Record<string, RestRoute>;

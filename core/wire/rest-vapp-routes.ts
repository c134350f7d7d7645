/** The routes of vApps: a part of the table in `rest.ts`. */
import { z } from 'zod';
import { flagSchema, opAnswerSchema, opViewSchema, pageOf, pageQuery, refSchema } from './rest-objects.js';
import {
  vappActionSchema,
  vappActSchema,
  vappAppliedSchema,
  vappApplySchema,
  vappCloneSchema,
  vappDocSchema,
  vappViewSchema,
} from './rest-vapp.js';

const at = z.strictObject({ vapp: refSchema });

export const vappRoutes = {
  vappList: {
    method: 'get',
    path: '/vapps',
    tag: 'vapps',
    summary: 'vApps, by name, with their members',
    query: z.strictObject(pageQuery),
    status: 200,
    response: pageOf(vappViewSchema),
  },
  vappGet: {
    method: 'get',
    path: '/vapps/{vapp}',
    tag: 'vapps',
    summary: 'One vApp: members, order, networks, properties without secrets',
    params: at,
    status: 200,
    response: vappViewSchema,
  },
  vappApply: {
    method: 'post',
    path: '/vapps',
    tag: 'vapps',
    summary:
      'Make a vApp of a document, or change it to what the document says; `dryRun` says only what would change',
    body: vappApplySchema,
    status: 202,
    response: vappAppliedSchema,
    idempotent: true,
  },
  vappDocument: {
    method: 'get',
    path: '/vapps/{vapp}/document',
    tag: 'vapps',
    summary: 'A vApp as the document that makes its like; `template` leaves MACs and addresses out',
    params: at,
    query: z.strictObject({ template: flagSchema }),
    status: 200,
    response: vappDocSchema,
  },
  vappExport: {
    method: 'post',
    path: '/vapps/{vapp}/export',
    tag: 'vapps',
    summary:
      'Pack all VMs of a vApp, running or off; when the operations are done, fetch it at /vapps/{vapp}/package?exports=OP,OP…',
    params: at,
    status: 202,
    response: z.object({ ops: z.array(opViewSchema) }).meta({ id: 'VappExport' }),
  },
  vappAction: {
    method: 'post',
    path: '/vapps/{vapp}/actions/{action}',
    tag: 'vapps',
    summary:
      'Start or stop a vApp in its order, or one nested in it; `suspend` has its VMs stand still, `resume` go on: what stands still keeps its memory on its node, and boots when that was off meanwhile',
    params: z.strictObject({ vapp: refSchema, action: vappActionSchema }),
    body: vappActSchema,
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  vappClone: {
    method: 'post',
    path: '/vapps/{vapp}/clones',
    tag: 'vapps',
    summary:
      'Make another vApp that begins as this one is now, running or off, beside it: its own names, ids, MACs, networks; all of it or nothing',
    params: at,
    body: vappCloneSchema,
    status: 202,
    response: vappAppliedSchema,
    idempotent: true,
  },
  vappDelete: {
    method: 'delete',
    path: '/vapps/{vapp}',
    tag: 'vapps',
    summary: 'Delete a vApp with its VMs, their disks and its own networks; `force` also while they run',
    params: at,
    query: z.strictObject({ force: flagSchema }),
    status: 202,
    response: opAnswerSchema,
    idempotent: true,
  },
  vappSchema: {
    method: 'get',
    path: '/schemas/vapp',
    tag: 'vapps',
    summary: 'The JSON Schema of the document, for editors',
    status: 200,
    response: z.record(z.string(), z.unknown()),
  },
} as const;
